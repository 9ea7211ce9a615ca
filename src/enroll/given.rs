//! What is given by flags, variables and the runner's settings file, made into what is wanted. All that is
//! wrong is told at once.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;
use secrecy::{ExposeSecret, SecretString};

use super::{config_file, labels};
use crate::config::{self, Scope, Setting};
use crate::credential::{Owner, Target};

/// Longer names Gitea cuts.
const LONGEST_NAME: usize = 255;

/// The flags that `run` and `enroll` share. Each has a variable of the runner's image beside it and wins
/// over it; none takes a secret.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Given {
    /// Address of the broker, with Gitea's sub-path if it has one [default: $GITEA_INSTANCE_URL]
    #[arg(long, value_name = "URL")]
    pub instance: Option<String>,

    /// File with the enrollment token [default: $GITEA_RUNNER_REGISTRATION_TOKEN, else the file that
    /// $GITEA_RUNNER_REGISTRATION_TOKEN_FILE names]
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// The runner's name [default: $GITEA_RUNNER_NAME, else the host's name]
    #[arg(long)]
    pub name: Option<String>,

    /// Labels in full, separated by commas; a bare one runs on the host [default: $GITEA_RUNNER_LABELS,
    /// else the runner's own]
    #[arg(long, value_name = "LABEL,…")]
    pub labels: Option<String>,

    /// The runner takes one task and is then removed by Gitea [default: $GITEA_RUNNER_EPHEMERAL]
    #[arg(long)]
    pub ephemeral: bool,

    /// The runner's settings file, YAML [default: $CONFIG_FILE]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// PEM file with the authorities to trust in place of the system's, for an https address
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,

    /// Give up after so many Registers that came to nothing [default: $GITEA_MAX_REG_ATTEMPTS, else never]
    #[arg(long, value_name = "N")]
    pub max_attempts: Option<String>,

    /// The first wait before something is tried again; each further one is twice as long, up to 15s
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = Duration::parse)]
    pub backoff: Duration,
}

/// What one of the two commands says beyond that.
#[derive(Debug)]
pub struct Own {
    /// The runner file, where a flag names it.
    pub file: Option<PathBuf>,
    /// What the file says to dial; `None`: whom it was asked of.
    pub address: Option<String>,
    /// Mode and owner of the file.
    pub owner: Owner,
    /// Straight at Gitea: with this file of an API token, in this scope.
    pub direct: Option<(Option<PathBuf>, Option<String>)>,
}

/// All that making a runner file needs.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Who is asked, with what secrets; no token at all is an empty one.
    pub gitea: config::Gitea,
    /// It is Gitea itself.
    pub direct: bool,
    /// What the file says to dial.
    pub address: String,
    /// The display name.
    pub name: String,
    /// In full.
    pub labels: Vec<String>,
    /// They were given, not taken by default.
    pub labels_given: bool,
    /// One task only.
    pub ephemeral: bool,
    /// Where the runner file lies.
    pub target: Target,
    /// Mode and owner of the file.
    pub owner: Owner,
    /// How many Registers may come to nothing.
    pub max_attempts: Option<u32>,
    /// The first wait before something is tried again.
    pub backoff: Duration,
}

/// Sentences about all that is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl Wanted {
    /// Whether there is a secret to register a runner with, or one to get that with.
    pub(super) fn has_token(&self) -> bool {
        let served = &self.gitea.default;
        served.registration_token.is_some() || served.api_token.is_some()
    }

    /// Puts flags, variables and the runner's settings file together. The second value are warnings.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn new(
        given: &Given,
        own: &Own,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<(Self, Vec<String>), Problems> {
        let mut reader = Reader { variable, problems: Vec::new(), warnings: Vec::new() };
        let wanted = reader.wanted(given, own);
        match wanted {
            Some(wanted) if reader.problems.is_empty() => Ok((wanted, reader.warnings)),
            _ => Err(Problems(reader.problems)),
        }
    }
}

struct Reader<V> {
    variable: V,
    problems: Vec<String>,
    warnings: Vec<String>,
}

impl<V: Fn(&str) -> Option<OsString>> Reader<V> {
    /// `None` only where something is wrong.
    fn wanted(&mut self, given: &Given, own: &Own) -> Option<Wanted> {
        let url = self.instance(given);
        let address = match &own.address {
            Some(text) => self.address("--address", text),
            None => url.clone(),
        };
        let registration_token = self.token(given);
        let name = self.name(given);
        let section = self.section(given);
        let target = self.target(own, section.file);
        let (labels, labels_given) = self.labels(given, section.labels.unwrap_or_default());
        let ephemeral = given.ephemeral || self.text("GITEA_RUNNER_EPHEMERAL").is_some();
        let max_attempts = self.max_attempts(given);
        let scope = match own.direct.as_ref().and_then(|(_, scope)| scope.as_deref()) {
            Some(text) => self.checked("--scope", Scope::parse(text)),
            None => Some(Scope::Instance),
        };
        let api_token = match &own.direct {
            Some((file, _)) => self.secret("--api-token-file", file.as_ref(), "GITEA_API_TOKEN"),
            None => None,
        };
        if let (None, None, Some(target)) = (&registration_token, &api_token, &target)
            && !target.path().exists()
        {
            let file = target.path();
            self.problems.push(format!(
                "there is no enrollment token and no runner file {}: set \
                 GITEA_RUNNER_REGISTRATION_TOKEN_FILE to a file with an enrollment token",
                file.display()
            ));
        }
        Some(Wanted {
            gitea: config::Gitea {
                url: url?,
                default: config::Served {
                    section: "gitea".into(),
                    scope: scope?,
                    registration_token,
                    api_token,
                },
                further: Vec::new(),
                ca_file: given.ca_file.clone(),
                client: None,
                lost_wakeup_workaround: true,
            },
            direct: own.direct.is_some(),
            address: address?.show(),
            name: name?,
            labels: labels?,
            labels_given,
            ephemeral,
            target: target?,
            owner: own.owner,
            max_attempts,
            backoff: given.backoff,
        })
    }

    fn instance(&mut self, given: &Given) -> Option<Uri> {
        if let Some(text) = &given.instance {
            return self.address("--instance", text);
        }
        match self.text("GITEA_INSTANCE_URL") {
            Some(text) => self.address("GITEA_INSTANCE_URL", &text),
            None => {
                let missing = "GITEA_INSTANCE_URL is not set: set it to the broker's address, for \
                               example http://broker:8080";
                self.problems.push(missing.into());
                None
            }
        }
    }

    fn address(&mut self, origin: &str, text: &str) -> Option<Uri> {
        self.checked(origin, Uri::parse(text))
    }

    fn token(&mut self, given: &Given) -> Option<SecretString> {
        self.secret("--token-file", given.token_file.as_ref(), "GITEA_RUNNER_REGISTRATION_TOKEN")
    }

    /// From the flag's file, the variable, or the file that the variable with `_FILE` names.
    fn secret(
        &mut self,
        flag: &str,
        flagged: Option<&PathBuf>,
        plain: &str,
    ) -> Option<SecretString> {
        let by_file = format!("{plain}_FILE");
        let (origin, file) = if let Some(file) = flagged {
            (flag, file.clone())
        } else if let Some(text) = self.text(plain).map(SecretString::from) {
            let text = text.expose_secret().trim();
            if text.contains(char::is_control) {
                let wrong = format!("{plain} holds more than one line: set it to the token alone");
                self.problems.push(wrong);
            }
            return Some(text.into());
        } else {
            (&*by_file, self.text(&by_file)?.into())
        };
        match config::read_secret(&file) {
            Ok((secret, warning)) => {
                self.warnings.extend(warning);
                Some(secret)
            }
            Err(wrong) => {
                self.problems.push(format!("{origin}: {wrong}"));
                // It is there, only not to be read: that alone is told.
                Some(SecretString::default())
            }
        }
    }

    fn name(&mut self, given: &Given) -> Option<String> {
        let host = || rustix::system::uname().nodename().to_str().ok().map(str::to_owned);
        let name = given.name.clone().or_else(|| self.text("GITEA_RUNNER_NAME")).or_else(host)?;
        let name = name.trim();
        if name.is_empty() || name.len() > LONGEST_NAME || name.contains(char::is_control) {
            self.problems.push(format!(
                "the runner's name {name:?} is empty, holds a control character or is longer than \
                 {LONGEST_NAME} bytes: set GITEA_RUNNER_NAME to another"
            ));
        }
        Some(name.into())
    }

    fn section(&mut self, given: &Given) -> config_file::Section {
        let path = given.config.clone().or_else(|| self.text("CONFIG_FILE").map(PathBuf::from));
        let Some(path) = path else { return config_file::Section::default() };
        let read = config_file::read(&path);
        self.checked("CONFIG_FILE", read).unwrap_or_default()
    }

    /// The runner reads the file that its settings name, so these win over the variables.
    fn target(&mut self, own: &Own, configured: Option<PathBuf>) -> Option<Target> {
        const VARIABLES: [&str; 2] = ["RUNNER_STATE_FILE", "GITEA_RUNNER_REGISTRATION_FILE"];
        let variable = VARIABLES.iter().find_map(|name| self.text(name)).map(PathBuf::from);
        let configured = configured.filter(|path| !path.as_os_str().is_empty());
        if let (None, Some(configured), Some(variable)) = (&own.file, &configured, &variable)
            && configured != variable
        {
            self.warnings.push(format!(
                "the runner file is {}, as runner.file of CONFIG_FILE says, and not {}",
                configured.display(),
                variable.display()
            ));
        }
        let file = own.file.clone().or(configured).or(variable);
        let path = file.unwrap_or_else(|| ".runner".into());
        let target = Target::of_file(&path);
        if target.is_none() {
            let path = path.display();
            self.problems.push(format!("{path} names no file: give the path of the runner file"));
        }
        target
    }

    /// As the runner does it: labels in its settings file win over all others.
    fn labels(&mut self, given: &Given, configured: Vec<String>) -> (Option<Vec<String>>, bool) {
        let listed = given.labels.clone().or_else(|| self.text("GITEA_RUNNER_LABELS"));
        let listed = labels::split(&listed.unwrap_or_default());
        if !configured.is_empty() && !listed.is_empty() {
            let warning = "GITEA_RUNNER_LABELS is ignored, as the runner itself ignores it where its \
                           settings file (CONFIG_FILE) has labels";
            self.warnings.push(warning.into());
        }
        let chosen = [configured, listed].into_iter().find(|labels| !labels.is_empty());
        let labels_given = chosen.is_some();
        match labels::in_full(&chosen.unwrap_or_else(labels::defaults)) {
            Ok(full) => (Some(full), labels_given),
            Err(wrong) => {
                self.problems.extend(wrong);
                (None, labels_given)
            }
        }
    }

    fn max_attempts(&mut self, given: &Given) -> Option<u32> {
        let variable = || self.text("GITEA_MAX_REG_ATTEMPTS");
        let text = given.max_attempts.clone().or_else(variable)?;
        let number = text.trim().parse().map_err(|_| format!("{text:?} is no number"));
        self.checked("GITEA_MAX_REG_ATTEMPTS", number).filter(|attempts| *attempts > 0)
    }

    fn checked<T>(&mut self, origin: &str, value: Result<T, String>) -> Option<T> {
        value.map_err(|wrong| self.problems.push(format!("{origin}: {wrong}"))).ok()
    }

    /// An empty variable counts as not set: compose files pass on what is not set so.
    fn text(&mut self, name: &str) -> Option<String> {
        let value = (self.variable)(name).filter(|value| !value.is_empty())?;
        let text = value.into_string();
        text.map_err(|_| self.problems.push(format!("{name} is not UTF-8 text"))).ok()
    }
}

#[cfg(test)]
mod tests;
