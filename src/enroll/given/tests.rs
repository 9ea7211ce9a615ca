use std::path::Path;

use super::*;

struct Site {
    folder: tempfile::TempDir,
    variables: Vec<(&'static str, String)>,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let site = Self { folder, variables: Vec::new() };
        let state = site.path("state");
        site.set("GITEA_INSTANCE_URL", "http://broker:8080/")
            .set("GITEA_RUNNER_REGISTRATION_TOKEN", "canary-token")
            .set("RUNNER_STATE_FILE", &state)
    }

    fn set(mut self, name: &'static str, value: &str) -> Self {
        self.variables.retain(|(set, _)| *set != name);
        self.variables.push((name, value.into()));
        self
    }

    fn with_file(self, name: &'static str, content: &str) -> Self {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        self.set(name, &path)
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn read_with(&self, given: &Given, own: &Own) -> Result<(Wanted, Vec<String>), Problems> {
        Wanted::new(given, own, |name| {
            let (_, value) = self.variables.iter().find(|(set, _)| *set == name)?;
            Some(value.into())
        })
    }

    fn read(&self) -> Result<(Wanted, Vec<String>), Problems> {
        self.read_with(&Given::default(), &own())
    }

    fn wanted(&self) -> Wanted {
        self.read().unwrap().0
    }

    fn problems(&self) -> Vec<String> {
        self.read().unwrap_err().0
    }
}

fn own() -> Own {
    Own {
        file: None,
        address: None,
        owner: Owner { mode: 0o600, uid: None, gid: None },
        direct: None,
    }
}

#[test]
fn the_image_s_variables_are_enough() {
    let site = Site::new()
        .set("GITEA_RUNNER_NAME", "builder-1")
        .set("GITEA_RUNNER_LABELS", "ubuntu:docker://node:20,metal")
        .set("GITEA_RUNNER_EPHEMERAL", "0")
        .set("GITEA_MAX_REG_ATTEMPTS", "10");
    let wanted = site.wanted();
    assert_eq!(wanted.address, "http://broker:8080");
    assert_eq!(
        wanted.gitea.default.registration_token.as_ref().unwrap().expose_secret(),
        "canary-token"
    );
    assert_eq!(wanted.name, "builder-1");
    assert_eq!(wanted.labels, ["ubuntu:docker://node:20", "metal:host"]);
    assert!(wanted.ephemeral, "any text means yes, as for the image");
    assert_eq!(wanted.max_attempts, Some(10));
    assert_eq!(wanted.target.path(), Path::new(&site.path("state")));
    assert!(!format!("{wanted:?}").contains("canary"));
}

#[test]
fn what_is_not_set_is_as_the_runner_has_it() {
    let wanted = Site::new().set("GITEA_RUNNER_EPHEMERAL", "").wanted();
    let host = rustix::system::uname();
    assert_eq!(wanted.name, host.nodename().to_str().unwrap());
    assert_eq!(wanted.labels.len(), 3);
    assert!(wanted.labels[0].starts_with("ubuntu-latest:docker://"), "{:?}", wanted.labels);
    assert!(!wanted.labels_given && !wanted.ephemeral && wanted.max_attempts.is_none());
}

#[test]
fn the_runner_s_settings_file_wins_over_variables_and_that_is_told() {
    let site = Site::new().set("GITEA_RUNNER_LABELS", "other");
    let file = site.path("from-config");
    let yaml = format!("runner:\n  file: {file}\n  labels: [\"mac:host\"]\n");
    let (wanted, warnings) = site.with_file("CONFIG_FILE", &yaml).read().unwrap();
    assert_eq!(wanted.labels, ["mac:host"]);
    assert_eq!(wanted.target.path(), Path::new(&file));
    assert_eq!(warnings.len(), 2, "{warnings:?}");
}

#[test]
fn the_other_image_s_name_of_the_file_is_known() {
    let mut site = Site::new().set("GITEA_RUNNER_REGISTRATION_FILE", "/data/r");
    assert_ne!(site.wanted().target.path(), Path::new("/data/r"));
    site = site.set("RUNNER_STATE_FILE", "");
    assert_eq!(site.wanted().target.path(), Path::new("/data/r"));
}

#[test]
fn flags_win_over_variables() {
    let site = Site::new().set("GITEA_RUNNER_NAME", "other");
    std::fs::write(site.path("token"), "from-file\n").unwrap();
    let given = Given {
        instance: Some("https://broker.example/git".into()),
        token_file: Some(site.path("token").into()),
        name: Some("flagged".into()),
        labels: Some("x:host".into()),
        ephemeral: true,
        ..Given::default()
    };
    let own = Own {
        file: Some("/out/.runner".into()),
        address: Some("http://gitea:3000".into()),
        direct: Some((Some(site.path("token").into()), Some("org:acme".into()))),
        ..own()
    };
    let (wanted, _) = site.read_with(&given, &own).unwrap();
    assert_eq!(wanted.gitea.url.to_string(), "https://broker.example/git");
    assert_eq!(wanted.gitea.default.registration_token.unwrap().expose_secret(), "from-file");
    assert_eq!((&*wanted.name, &*wanted.labels[0]), ("flagged", "x:host"));
    assert_eq!((&*wanted.address, wanted.ephemeral), ("http://gitea:3000", true));
    assert_eq!(wanted.target.path(), Path::new("/out/.runner"));
    assert_eq!(wanted.gitea.default.scope, Scope::Org("acme".into()));
    assert!(wanted.direct && wanted.gitea.default.api_token.is_some());
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let site = Site::new()
        .set("GITEA_INSTANCE_URL", "broker:8080")
        .set("GITEA_RUNNER_REGISTRATION_TOKEN", "")
        .set("GITEA_RUNNER_REGISTRATION_TOKEN_FILE", "/missing/token")
        .set("GITEA_RUNNER_NAME", " ")
        .set("GITEA_RUNNER_LABELS", "ubuntu:node:20")
        .set("GITEA_MAX_REG_ATTEMPTS", "ten")
        .with_file("CONFIG_FILE", "runner: [");
    let problems = site.problems();
    assert_eq!(problems.len(), 6, "{problems:?}");
    assert_eq!(Site::new().set("GITEA_INSTANCE_URL", "").problems().len(), 1);
}

#[test]
fn without_a_token_there_must_be_a_file() {
    let site = Site::new().set("GITEA_RUNNER_REGISTRATION_TOKEN", "");
    let problems = site.problems();
    assert!(problems[0].starts_with("there is no enrollment token and no runner file"));
    std::fs::write(site.path("state"), "{}").unwrap();
    assert!(site.wanted().gitea.default.registration_token.is_none());
}

#[test]
fn a_token_of_several_lines_is_refused_and_not_repeated() {
    let problems = Site::new().set("GITEA_RUNNER_REGISTRATION_TOKEN", "canary\nmore").problems();
    assert!(problems[0].contains("more than one line") && !problems[0].contains("canary"));
}
