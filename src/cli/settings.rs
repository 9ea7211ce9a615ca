//! The arguments of every command that needs settings.

use std::path::PathBuf;

use super::Failure;
use crate::config::{self, Admin, Loaded, Problem, Sources};

/// Where settings come from.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct SettingsArgs {
    /// Settings file, TOML [default: $RUNNER_BROKER_CONFIG, else /etc/runner-broker/config.toml
    /// where there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// One setting, above the file and the environment, for example log.level=debug; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl SettingsArgs {
    /// Reads and checks all settings.
    ///
    /// # Errors
    /// All that is wrong at once, a line each.
    pub fn load(&self) -> Result<Loaded, Failure> {
        config::load(&self.sources()?).map_err(|problems| Failure::new(Failure::SETTINGS, problems))
    }

    /// Reads `[admin]` alone: nothing else needs to be there or right. What is wrong with it comes along.
    pub(super) fn admin(&self) -> Result<(Admin, Vec<Problem>), Failure> {
        Ok(config::load_admin(&self.sources()?))
    }

    fn sources(&self) -> Result<Sources, Failure> {
        let flags = self.set.iter().map(|flag| {
            // The text is not repeated: it may be a secret, given in the wrong place.
            flag.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned())).ok_or_else(
                || {
                    Failure::new(
                        Failure::USAGE,
                        "--set takes KEY=VALUE, for example log.level=debug",
                    )
                },
            )
        });
        Ok(Sources::of_process(self.config.clone(), flags.collect::<Result<_, _>>()?))
    }
}
