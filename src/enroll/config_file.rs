//! The runner's own settings file (YAML), as far as enrolling needs it.

use std::path::{Path, PathBuf};

use ::config::{Config, File, FileFormat};
use serde::Deserialize;

/// What is read of it; the rest is the runner's business.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Section {
    /// Where the runner looks for its runner file.
    pub(super) file: Option<PathBuf>,
    /// Labels, in full or bare; with any of them the runner ignores all others.
    pub(super) labels: Option<Vec<String>>,
}

/// Reads the section `runner`.
///
/// # Errors
/// A sentence without the file's text, which may hold secrets.
pub(super) fn read(path: &Path) -> Result<Section, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("{shown} cannot be read: {error}"))?;
    parse(&text).map_err(|wrong| format!("{shown} {wrong}"))
}

fn parse(text: &str) -> Result<Section, &'static str> {
    #[derive(Deserialize)]
    struct Whole {
        runner: Option<Section>,
    }

    let file = File::from_str(text, FileFormat::Yaml);
    let read = Config::builder().add_source(file).build();
    let whole: Whole = read
        .map_err(|_| "is no YAML: correct it, the runner does not take it either")?
        .try_deserialize()
        .map_err(|_| "must hold runner.file as text and runner.labels as a list of texts")?;
    Ok(whole.runner.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_and_the_labels_are_read_and_nothing_else() {
        let text = "log:\n  level: info\nrunner:\n  file: /data/.runner\n  capacity: 2\n  labels:\n    \
                    - \"ubuntu-latest:docker://node:20\"\n    - metal\ncache: {}\n";
        let section = parse(text).unwrap();
        assert_eq!(section.file, Some("/data/.runner".into()));
        let labels = section.labels.unwrap();
        assert_eq!(labels, ["ubuntu-latest:docker://node:20", "metal"]);
    }

    #[test]
    fn what_is_not_there_is_not_set() {
        for text in ["", "# nothing\n", "runner:\n", "runner: {}\n", "log:\n  level: info\n"] {
            assert_eq!(parse(text), Ok(Section::default()), "{text:?}");
        }
        assert_eq!(parse("runner:\n  labels: []\n").unwrap().labels, Some(vec![]));
    }

    #[test]
    fn what_is_wrong_is_told_without_the_text() {
        assert!(parse("runner: [canary").unwrap_err().starts_with("is no YAML"));
        assert!(parse("canary").is_err());
        let wrong = parse("runner:\n  labels: {canary: 1}\n").unwrap_err();
        assert!(wrong.starts_with("must hold runner.file as text"), "{wrong}");
    }
}
