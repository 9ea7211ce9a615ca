//! Labels as the runner reads them from its variable and its settings file.

use crate::credential::is_form;

/// What a runner that is given no labels takes.
const DEFAULTS: [&str; 3] = [
    "ubuntu-latest:docker://docker.gitea.com/runner-images:ubuntu-latest",
    "ubuntu-24.04:docker://docker.gitea.com/runner-images:ubuntu-24.04",
    "ubuntu-22.04:docker://docker.gitea.com/runner-images:ubuntu-22.04",
];

/// The runner's own default labels.
pub(super) fn defaults() -> Vec<String> {
    DEFAULTS.map(str::to_owned).into()
}

/// A list as a variable holds it.
pub(super) fn split(list: &str) -> Vec<String> {
    list.split(',').map(str::trim).filter(|label| !label.is_empty()).map(str::to_owned).collect()
}

/// The labels in full. The runner takes a bare name to mean *run on the host*, and so it is written.
///
/// # Errors
/// A sentence for each label that the runner does not take.
pub(super) fn in_full(labels: &[String]) -> Result<Vec<String>, Vec<String>> {
    let (mut full, mut wrong) = (Vec::new(), Vec::new());
    for label in labels {
        match label.split_once(':') {
            _ if label.contains(|c: char| c.is_whitespace() || c.is_control()) => {
                wrong.push(format!("the label {label:?} holds white space: remove it"));
            }
            None if !label.is_empty() => full.push(format!("{label}:host")),
            Some((name, form)) if !name.is_empty() && is_form(form) => full.push(label.clone()),
            _ => wrong.push(format!(
                "the label {label:?} does not say where jobs run: write NAME:host, or NAME:docker:// \
                 and an image, for example ubuntu-latest:docker://node:20"
            )),
        }
    }
    if wrong.is_empty() { Ok(full) } else { Err(wrong) }
}

/// The names of full labels, as Register and Declare take them.
pub(super) fn names(full: &[String]) -> Vec<String> {
    full.iter().map(|label| label.split(':').next().unwrap_or_default().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_runs_on_the_host() {
        let labels = split(" metal, ubuntu:docker://node:20 ,mac:host,,old:docker:x");
        let full = in_full(&labels).unwrap();
        assert_eq!(full, ["metal:host", "ubuntu:docker://node:20", "mac:host", "old:docker:x"]);
        assert_eq!(names(&full), ["metal", "ubuntu", "mac", "old"]);
    }

    #[test]
    fn each_label_that_the_runner_does_not_take_is_told() {
        let labels = split("ok,ubuntu:node:20,x:docker,:host,a b");
        assert_eq!(in_full(&labels).unwrap_err().len(), 4);
    }

    #[test]
    fn the_defaults_are_in_full() {
        assert_eq!(in_full(&defaults()), Ok(defaults()));
    }
}
