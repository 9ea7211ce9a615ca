//! The rules of loading, from outside.

mod limits;
mod network;
mod properties;
mod runners;
mod scopes;
mod secrets;
mod tls;
mod tokens;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::ExposeSecret;
use tempfile::TempDir;

use super::{Address, Deregister, Loaded, LogLevel, Problems, Scope, Sources, keys, load};

const REGISTRATION: &str = "00123#'\"1e5";
const ENROLLMENT: &str = "canary-of-enrollment-0123456789abcdef";

/// A settings file in a folder of its own, with the environment and the flags beside it.
struct Case {
    folder: TempDir,
    toml: String,
    environment: Vec<(String, String)>,
    flags: Vec<(String, String)>,
}

impl Case {
    /// Just what is needed, in the environment.
    fn minimal() -> Self {
        Self::empty()
            .env("GITEA_INSTANCE_URL", "http://gitea:3000")
            .env("GITEA_RUNNER_REGISTRATION_TOKEN", REGISTRATION)
            .env("RUNNER_BROKER__ENROLLMENT__TOKEN", ENROLLMENT)
    }

    fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Secrets may be in it.
        let path = folder.path().join("config.toml");
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).unwrap();
        Self { folder, toml: String::new(), environment: Vec::new(), flags: Vec::new() }
    }

    fn toml(mut self, text: &str) -> Self {
        self.toml.push_str(text);
        self
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.retain(|(other, _)| other != name);
        self.environment.push((name.into(), value.into()));
        self
    }

    fn set(mut self, key: &str, value: &str) -> Self {
        self.flags.push((key.into(), value.into()));
        self
    }

    /// Writes a file beside the settings file and gives its path.
    fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn sources(&self) -> Sources {
        let file = PathBuf::from(self.file("config.toml", &self.toml));
        let own = |(name, value): &(String, String)| (name.into(), value.into());
        Sources {
            file: Some(file),
            default_file: None,
            environment: self.environment.iter().map(own).collect(),
            flags: self.flags.clone(),
        }
    }

    fn load(&self) -> Result<Loaded, Problems> {
        load(&self.sources())
    }

    #[track_caller]
    fn good(&self) -> Loaded {
        self.load().unwrap_or_else(|problems| panic!("{problems}"))
    }

    /// The lines of all problems, with the folder's name replaced.
    #[track_caller]
    fn bad(&self) -> Vec<String> {
        let problems = self.load().expect_err("the settings are wrong");
        let folder = self.folder.path().display().to_string();
        problems.0.iter().map(|problem| problem.to_string().replace(&folder, "DIR")).collect()
    }

    #[track_caller]
    fn complains(&self, line: &str) {
        assert_eq!(self.bad(), [line]);
    }
}

fn origin(loaded: &Loaded, key: &str) -> String {
    loaded.used.iter().find(|used| used.key == key).expect("used").origin.clone()
}

#[test]
fn little_is_needed_and_all_of_it_is_asked_for_at_once() {
    let settings = Case::minimal().good().settings;
    assert_eq!(settings.gitea.default.scope, Scope::Instance);
    assert_eq!(settings.shutdown.deadline, Duration::from_secs(9));
    let keys: Vec<_> = Case::empty().load().unwrap_err().0.into_iter().map(|p| p.key).collect();
    assert_eq!(keys, ["gitea.url", "gitea.registration_token"]);
}

#[test]
fn every_known_key_is_read_and_told() {
    let loaded = Case::minimal().set("labels.a", "host").good();
    for key in keys::KEYS {
        let plain = key.strip_suffix("_file").filter(|plain| keys::is_secret(plain));
        let found = loaded.used.iter().filter(|used| used.key == plain.unwrap_or(key)).count();
        assert_eq!(found, 1, "{key}");
    }
    assert_eq!(origin(&loaded, "labels.a"), "flag --set");
}

#[test]
fn later_layers_win_and_values_know_where_they_come_from() {
    let mut case = Case::minimal().toml("[log]\nlevel = \"warn\"\n[gitea]\nurl = \"http://a\"\n");
    let file = format!("file {}", case.folder.path().join("config.toml").display());
    let loaded = case.good();
    assert_eq!(loaded.settings.log.level, LogLevel::Warn);
    assert_eq!(origin(&loaded, "log.level"), file);
    assert_eq!(origin(&loaded, "gitea.url"), "variable GITEA_INSTANCE_URL");
    assert_eq!(origin(&loaded, "log.format"), "default");

    case = case
        .env("RUNNER_BROKER__LOG__LEVEL", "error")
        .env("RUNNER_BROKER__GITEA__URL", "http://b")
        .env("RUNNER_BROKER__GITEA__REGISTRATION_TOKEN", "other");
    let loaded = case.good();
    assert_eq!(loaded.settings.log.level, LogLevel::Error);
    assert_eq!(origin(&loaded, "log.level"), "variable RUNNER_BROKER__LOG__LEVEL");
    assert_eq!(loaded.settings.gitea.url.to_string(), "http://b/");
    assert_eq!(
        loaded.settings.gitea.default.registration_token.as_ref().unwrap().expose_secret(),
        "other"
    );

    let loaded = case.set("log.level", "debug").set("log.level", "trace").good();
    assert_eq!(loaded.settings.log.level, LogLevel::Trace);
    assert_eq!(origin(&loaded, "log.level"), "flag --set");
}

#[test]
fn names_in_the_environment_have_no_case_and_empty_ones_do_not_count() {
    let case = Case::minimal()
        .env("RUNNER_BROKER__Shutdown__DEREGISTER", "none")
        .env("RUNNER_BROKER__LABELS__UBUNTU-22.04", "docker://node:20")
        .env("RUNNER_BROKER__LOG__LEVEL", "")
        .env("GITEA_API_TOKEN", "");
    let settings = case.good().settings;
    assert_eq!(settings.shutdown.deregister, Deregister::None);
    assert_eq!(settings.labels["ubuntu-22.04"], "docker://node:20");
    assert!(settings.gitea.default.api_token.is_none());
    case.env("RUNNER_BROKER__LOG__FORMAT", "json")
        .env("RUNNER_BROKER__log__FORMAT", "text")
        .complains(
            "log.format (variable RUNNER_BROKER__log__FORMAT): is given by variable \
         RUNNER_BROKER__LOG__FORMAT too: remove one of them",
        );
}

/// Found by fuzzing.
#[test]
fn a_variable_without_a_name_that_is_there_twice_is_told() {
    let sources = Sources {
        file: None,
        default_file: None,
        environment: vec![("RUNNER_BROKER__".into(), "1".into()); 2],
        flags: Vec::new(),
    };
    let problems = load(&sources).unwrap_err().0;
    let of_variable =
        problems.iter().filter(|problem| problem.origin == "variable RUNNER_BROKER__");
    assert_eq!(of_variable.clone().count(), 2, "{problems:?}");
    assert!(of_variable.clone().all(|problem| problem.key == "\"\""), "{problems:?}");
}

#[test]
fn names_that_are_not_ours_are_left_alone() {
    Case::minimal()
        .env("RUNNER_BROKER_PORT", "tcp://10.0.0.1:8080")
        .env("RUNNER_BROKER_SERVICE_HOST", "10.0.0.1")
        .env("GITEA_RUNNER_NAME", "x")
        .good();
}

#[test]
fn unknown_names_are_errors_with_what_was_perhaps_meant() {
    let case = Case::minimal()
        .toml("[listen]\nruners = \"x\"\n[rent]\nexpire_after = \"10m\"\n[[runner]]\nname = \"x\"\n[void]\n")
        .env("RUNNER_BROKER__LOG__LEVL", "canary")
        .env("RUNNER_BROKER__ENROLLMENT_TOKEN", "canary")
        .set("log.fromat", "json")
        .set("", "x");
    assert_eq!(
        case.bad(),
        [
            "rent.expire_after (file DIR/config.toml): is unknown: remove it, or correct its name",
            "runner (file DIR/config.toml): is unknown: did you mean runners?",
            "void (file DIR/config.toml): is unknown: remove it, or correct its name",
            "listen.runers (file DIR/config.toml): is unknown: did you mean listen.runners?",
            "enrollment_token (variable RUNNER_BROKER__ENROLLMENT_TOKEN): is unknown: did you mean \
             RUNNER_BROKER__ENROLLMENT__TOKEN?",
            "log.levl (variable RUNNER_BROKER__LOG__LEVL): is unknown: did you mean \
             RUNNER_BROKER__LOG__LEVEL?",
            "log.fromat (flag --set): is unknown: did you mean log.format?",
            "\"\" (flag --set): is unknown: remove it, or correct its name",
        ]
    );
}

#[test]
fn a_file_that_was_named_must_be_there_and_hides_what_else_is_missing() {
    let case = Case::empty().env("RUNNER_BROKER__LOG__LEVEL", "loud");
    let nowhere = case.folder.path().join("none.toml");
    let message = format!(
        "{0} cannot be read: {0} is missing; make it, mount it, or correct the path",
        nowhere.display()
    );
    let mut sources = case.sources();
    sources.file = Some(nowhere.clone());
    let problems = load(&sources).unwrap_err();
    assert_eq!(problems.0.len(), 2, "{problems}");
    assert_eq!(problems.0[0].to_string(), format!("config (flag --config): {message}"));
    assert_eq!(problems.0[1].key, "log.level");

    sources.file = None;
    sources.environment.push(("RUNNER_BROKER_CONFIG".into(), nowhere.clone().into()));
    let line = load(&sources).unwrap_err().0[0].to_string();
    assert_eq!(line, format!("config (variable RUNNER_BROKER_CONFIG): {message}"));

    sources.environment.retain(|(name, _)| name != "RUNNER_BROKER_CONFIG");
    sources.default_file = Some(nowhere);
    let keys: Vec<_> = load(&sources).unwrap_err().0.into_iter().map(|p| p.key).collect();
    assert_eq!(keys, ["gitea.url", "gitea.registration_token", "log.level"]);
}

#[test]
fn the_file_is_found_by_flag_then_variable_then_default() {
    let case = Case::minimal().toml("[log]\nlevel = \"error\"\n");
    let mut sources = case.sources();
    let info = case.file("variable.toml", "[log]\nlevel = \"warn\"\n");
    sources.environment.push(("RUNNER_BROKER_CONFIG".into(), info.into()));
    sources.default_file = Some(case.file("default.toml", "[log]\nlevel = \"debug\"\n").into());
    let level = |sources: &Sources| load(sources).unwrap().settings.log.level;
    assert_eq!(level(&sources), LogLevel::Error);
    sources.file = None;
    assert_eq!(level(&sources), LogLevel::Warn);
    sources.environment.pop();
    assert_eq!(level(&sources), LogLevel::Debug);
}

#[test]
fn a_file_that_is_no_toml_is_told_by_its_line_alone() {
    Case::empty().toml("[gitea]\nregistration_token = \"canary\n").complains(
        "config (file DIR/config.toml): line 2 is no TOML: invalid basic string, expected `\"`; \
         correct it there",
    );
    Case::minimal().toml("x = 99999999999999999999").complains(
        "config (file DIR/config.toml): holds a number that is out of range: put it in quotes",
    );
}

#[test]
fn values_of_the_wrong_kind_are_told() {
    let case = Case::minimal().toml(
        "log = \"info\"\n[credentials]\nmode = 600\nuid = 1000\ngid = \"1001\"\n[admin]\nlisten = [1]\n\
         [labels]\nubuntu-22.04 = \"host\"\n\"a:b\" = \"host\"\n\"\" = \"host\"\n[enrollment]\ntoken = 12\n",
    );
    assert_eq!(
        case.bad(),
        [
            "log (file DIR/config.toml): is a section: write [log] once, and its keys below it",
            "enrollment.token (file DIR/config.toml): is no text: put it in quotes",
            "labels.ubuntu-22 (file DIR/config.toml): is a table: give text (and put a name that \
             holds a dot in quotes)",
            "admin.listen (file DIR/config.toml): is no text: put it in quotes",
            "credentials.mode (file DIR/config.toml): is no text: put it in quotes",
            "labels. (file DIR/config.toml): \"\" is no bare label: leave out colons, commas and \
             spaces, for example ubuntu-latest = \"docker://node:20\"",
            "labels.a:b (file DIR/config.toml): \"a:b\" is no bare label: leave out colons, commas \
             and spaces, for example ubuntu-latest = \"docker://node:20\"",
        ]
    );
    let settings =
        Case::minimal().toml("[credentials]\nuid = 1000\ngid = \"1001\"\n").good().settings;
    assert_eq!((settings.credentials.uid, settings.credentials.gid), (Some(1000), Some(1001)));
}

#[test]
fn a_value_that_is_not_unicode_is_a_problem_where_it_is_ours() {
    use std::os::unix::ffi::OsStringExt;
    let bytes = || std::ffi::OsString::from_vec(b"can\xffary".to_vec());
    let mut sources = Case::minimal().sources();
    sources.file = None;
    sources.environment.push(("OTHER".into(), bytes()));
    assert!(load(&sources).is_ok());
    sources.environment.push(("GITEA_API_TOKEN".into(), bytes()));
    let line = load(&sources).unwrap_err().to_string();
    let wanted = "gitea.api_token (variable GITEA_API_TOKEN): is not UTF-8 text: give plain text";
    assert_eq!(line, wanted);
}

#[test]
fn the_drain_leaves_a_second_before_the_deadline() {
    let case = Case::minimal().set("shutdown.deadline", "6s");
    case.good();
    case.set("shutdown.deadline", "5s").complains(
        "shutdown.drain_timeout (default): 5s leaves less than 1s of shutdown.deadline (5s, flag \
         --set) for deregistering: set at most 4s, or a later deadline",
    );
    Case::minimal().set("shutdown.deadline", "2days").complains(
        "shutdown.deadline (flag --set): 2days is longer than anything waits for a process to end: set \
         at most 1day",
    );
}

#[test]
fn a_ca_file_holds_certificates() {
    let case = Case::minimal();
    let good = rcgen::generate_simple_self_signed(["gitea".into()]).unwrap().cert.pem();
    let good = case.file("ca.pem", &good);
    let bad = case.file("bad.pem", "no certificate");
    let case = case.set("gitea.ca_file", &good);
    assert_eq!(case.good().settings.gitea.ca_file, Some(good.into()));
    case.set("gitea.ca_file", &bad).complains(
        "gitea.ca_file (flag --set): DIR/bad.pem holds no certificate that can be read: give a PEM \
         file",
    );
}

#[test]
fn a_socket_path_that_the_system_would_refuse_is_told() {
    Case::minimal().set("admin.socket", &format!("/{}", "x".repeat(107))).complains(
        "admin.socket (flag --set): is longer than the 107 bytes of a socket's path: give a shorter \
         one",
    );
}

/// The example with the lines that have no default, too, and secrets that are there.
#[test]
fn the_example_loads_names_every_key_and_shows_the_defaults() {
    let example = include_str!("../../../config/example.toml");
    let is_key =
        |line: &str| line.starts_with(|c: char| c.is_ascii_lowercase() || "[\"".contains(c));
    let all: Vec<&str> = example
        .lines()
        .map(|line| line.strip_prefix('#').filter(|l| is_key(l)).unwrap_or(line))
        .collect();
    let secrets = |case: Case| {
        let (registration, enrollment) = (case.file("r", REGISTRATION), case.file("e", ENROLLMENT));
        case.set("gitea.registration_token_file", &registration)
            .set("enrollment.token_file", &enrollment)
    };

    let shown = secrets(Case::empty().toml(example)).good();
    let default = Case::minimal().good();
    for used in &shown.used {
        let same = default.used.iter().any(|d| d.key == used.key && d.value == used.value);
        assert!(same || used.key.ends_with("token_file"), "{used:?}");
    }

    let case = secrets(Case::empty().toml(&all.join("\n")));
    let made = rcgen::generate_simple_self_signed(["gitea".into()]).unwrap();
    let pem = made.cert.pem();
    let (cert, key) = (case.file("c", &pem), case.file("k", &made.signing_key.serialize_pem()));
    let builders = case.file("b", &ENROLLMENT.replace("canary", "builders"));
    let (admin, api) = (case.file("admin", &"a".repeat(32)), case.file("a", "api"));
    let ca = case.file("ca.pem", &pem);
    let mut case = case
        .set("admin.token_file", &admin)
        .set("gitea.api_token_file", &api)
        .set("gitea.ca_file", &ca);
    let acme = case.file("acme", "of-acme");
    for (there, here) in [
        ("/run/secrets/enrollment_builders", &builders),
        ("/run/secrets/registration_token_acme", &acme),
        ("/run/secrets/gitea_api_token_acme", &api),
        ("/etc/runner-broker/tls/tls.crt", &cert),
        ("/etc/runner-broker/tls/tls.key", &key),
        ("/etc/runner-broker/tls/clients.pem", &cert),
        ("/etc/runner-broker/client/tls.crt", &cert),
        ("/etc/runner-broker/client/tls.key", &key),
    ] {
        case.toml = case.toml.replace(there, here);
    }
    let loaded = case.good();
    assert_eq!(loaded.settings.credentials.address, Address::Auto);
    assert_eq!(loaded.settings.enrollment.tokens.len(), 1);
    assert_eq!(loaded.settings.gitea.further.len(), 1);
    assert_eq!(loaded.settings.labels.len(), 2);
    for used in &loaded.used {
        let of_token = used.key.split_once("].");
        let named = of_token.or_else(|| used.key.split_once('.')).unwrap().1;
        let named = named.strip_prefix("tls.").unwrap_or(named);
        let line = |line: &&str| line.trim_matches('"').starts_with(named);
        assert!(all.iter().any(line), "{} is not in the example", used.key);
    }
}
