//! The way from files, environment and flags to checked settings.

use std::env;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use zeroize::Zeroize;

use super::layers::Layers;
use super::problem::{Problem, Problems};
use super::reader::Reader;
use super::{Admin, Settings, validate};

/// Read where no other file is named and this one is there.
pub const DEFAULT_FILE: &str = "/etc/runner-broker/config.toml";

/// Names the settings file in the environment.
const FILE_VARIABLE: &str = "RUNNER_BROKER_CONFIG";

/// Where settings come from. Later ones win: the file, the environment (first the names that the
/// runner's image knows, then `RUNNER_BROKER__SECTION__KEY`), the flags. Wiped when dropped.
pub struct Sources {
    /// The file that `--config` names; it must be there.
    pub file: Option<PathBuf>,
    /// Read where neither `--config` nor `RUNNER_BROKER_CONFIG` names a file; it may be missing.
    pub default_file: Option<PathBuf>,
    /// All of the process's environment. An empty variable counts as not set.
    pub environment: Vec<(OsString, OsString)>,
    /// `--set section.key=value`, in their order.
    pub flags: Vec<(String, String)>,
}

impl Sources {
    /// This process's environment with its arguments.
    #[must_use]
    pub fn of_process(file: Option<PathBuf>, flags: Vec<(String, String)>) -> Self {
        let environment = env::vars_os().collect();
        Self { file, default_file: Some(DEFAULT_FILE.into()), environment, flags }
    }

    /// The file to read and who named it.
    fn named_file(&self) -> Option<(&Path, String)> {
        let variable = || {
            let (_, path) = self
                .environment
                .iter()
                .find(|(name, path)| name == FILE_VARIABLE && !path.is_empty())?;
            Some((Path::new(path), format!("variable {FILE_VARIABLE}")))
        };
        let default = || {
            let path = self.default_file.as_deref()?;
            let missing = path.metadata().is_err_and(|e| e.kind() == io::ErrorKind::NotFound);
            (!missing).then(|| (path, "default".into()))
        };
        let flag = self.file.as_deref().map(|path| (path, "flag --config".into()));
        flag.or_else(variable).or_else(default)
    }
}

impl Drop for Sources {
    fn drop(&mut self) {
        for (_, value) in self.environment.drain(..) {
            value.into_encoded_bytes().zeroize();
        }
        self.flags.iter_mut().for_each(|(_, value)| value.zeroize());
    }
}

/// Settings that can be used, and how they came about.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Complete and checked.
    pub settings: Settings,
    /// What is allowed but a risk, a line each.
    pub warnings: Vec<String>,
    /// Every setting, those by default too.
    pub used: Vec<Used>,
}

/// One setting as it is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Used {
    /// `section.key`
    pub key: String,
    /// As it would be written, a secret as `(hidden)`, one that is not set as `(not set)`.
    pub value: String,
    /// `default`, `file PATH`, `variable NAME` or `flag --set`.
    pub origin: String,
}

/// Reads, merges and checks all settings.
///
/// # Errors
/// All that is wrong, at once.
pub fn load(sources: &Sources) -> Result<Loaded, Problems> {
    let mut reader = reader(sources);
    let settings = validate::settings(&mut reader);
    let Reader { problems, warnings, used, .. } = reader;
    match settings {
        Some(settings) if problems.is_empty() => Ok(Loaded { settings, warnings, used }),
        _ => Err(Problems(problems)),
    }
}

/// Reads `[admin]` alone, for the commands that only talk to a broker: nothing else needs to be there or
/// right. Defaults stand in for what is wrong, which comes along.
#[must_use]
pub fn load_admin(sources: &Sources) -> (Admin, Vec<Problem>) {
    let mut reader = reader(sources);
    let admin = validate::admin(&mut reader);
    let matters = |key: &str| key == "config" || key.starts_with("admin");
    reader.problems.retain(|problem| matters(&problem.key));
    (admin, reader.problems)
}

fn reader(sources: &Sources) -> Reader {
    let mut layers = Layers::default();
    if let Some((path, named_by)) = sources.named_file() {
        layers.file(path, &named_by);
    }
    layers.environment(&sources.environment);
    layers.flags(&sources.flags);
    Reader::new(layers.merge())
}
