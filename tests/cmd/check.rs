//! `runner-broker check`

use std::fs;
use std::os::unix::fs::PermissionsExt;

use insta::assert_snapshot;
use tempfile::TempDir;

use super::run;

const CANARY: &str = "canary-0123456789abcdef0123456789abcdef";

/// A folder with secrets, a settings file that is nearly empty, and one that is complete.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    };
    let dir = folder.path().display();
    write("registration", "canary-of-gitea\n");
    write("enrollment", CANARY);
    write("empty.toml", "");
    write(
        "config.toml",
        &format!(
            "[gitea]\nurl = \"http://gitea:3000/git/\"\nregistration_token_file = \"{dir}/registration\"\n\
             [enrollment]\ntoken_file = \"{dir}/enrollment\"\n\
             [labels]\n\"ubuntu-22.04\" = \"docker://node:20\"\n"
        ),
    );
    folder
}

fn check(folder: &TempDir, arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let shown = run(folder.path(), &[&["check"], arguments].concat(), environment);
    assert!(!shown.contains("canary"), "{shown}");
    // The widths of columns depend on the folder's name.
    let lines = shown.lines().map(|line| {
        if line.contains("  ") && !line.starts_with("  ") {
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        } else {
            line.to_owned()
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn what_will_be_used_is_shown_with_its_origin() {
    let environment = [("RUNNER_BROKER__LOG__LEVEL", "debug"), ("GITEA_API_TOKEN", "canary")];
    let arguments = ["--config", "config.toml", "--set", "shutdown.deadline=20s"];
    assert_snapshot!(check(&folder(), &arguments, &environment), @r"
    exit: 0
    --- stdout
    SETTING VALUE FROM
    listen.runners 0.0.0.0:8080 default
    listen.public_url (not set) default
    listen.trusted_proxies (not set) default
    admin.listen 127.0.0.1:8081 default
    admin.socket /var/lib/runner-broker/admin.sock default
    admin.token (not set) default
    admin.public_url (not set) default
    admin.trusted_proxies (not set) default
    admin.user_header (not set) default
    admin.allow_cidrs (not set) default
    gitea.url http://gitea:3000/git file config.toml
    gitea.scope instance default
    gitea.registration_token_file [dir]/registration file config.toml
    gitea.api_token (hidden) variable GITEA_API_TOKEN
    gitea.ca_file (not set) default
    enrollment.token_file [dir]/enrollment file config.toml
    credentials.path /runners/{name}/.runner default
    credentials.address auto default
    credentials.mode 0600 default
    credentials.uid (not set) default
    credentials.gid (not set) default
    labels.ubuntu-22.04 docker://node:20 file config.toml
    shutdown.deregister auto default
    shutdown.busy leave default
    shutdown.drain_timeout 5s default
    shutdown.deadline 20s flag --set
    store.url sqlite:/var/lib/runner-broker/state.db default
    store.keep_events 90days default
    log.format text default
    log.level debug variable RUNNER_BROKER__LOG__LEVEL
    --- stderr
    ");
}

#[test]
fn programs_get_json() {
    let folder = folder();
    let shown = check(&folder, &["--config", "config.toml", "--json"], &[]);
    let json = shown.lines().filter(|line| !line.starts_with("---") && !line.starts_with("exit"));
    let answer: serde_json::Value = serde_json::from_str(&json.collect::<String>()).unwrap();
    assert_eq!(
        answer["settings"][0],
        serde_json::json!({ "key": "listen.runners", "value": "0.0.0.0:8080", "origin": "default" })
    );
    assert_eq!(answer["warnings"], serde_json::json!([]));
}

#[test]
fn a_secret_that_all_can_read_is_a_warning() {
    let folder = folder();
    let secret = folder.path().join("enrollment");
    fs::set_permissions(secret, fs::Permissions::from_mode(0o644)).unwrap();
    let shown = check(&folder, &["--config", "config.toml"], &[]);
    assert!(shown.starts_with("exit: 0\n"), "{shown}");
    let stderr = shown.split_once("--- stderr\n").unwrap().1;
    assert_snapshot!(stderr, @"warning: enrollment.token_file: [dir]/enrollment can be read by every user: take that away with chmod o-rwx [dir]/enrollment");
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let folder = folder();
    let dir = folder.path().display().to_string();
    fs::write(
        folder.path().join("wrong.toml"),
        format!(
            "[listen]\nrunners = \"localhost:8080\"\nruners = \"0.0.0.0:80\"\n\
             [gitea]\nurl = \"http://admin:canary@gitea\"\nscope = \"orgs:acme\"\nregistration_token_file = \"{dir}\"\n\
             [credentials]\npath = \"runners/{{name}}\"\nmode = \"0644\"\n\
             [labels]\nubuntu-latest = \"node:20\"\n"
        ),
    )
    .unwrap();
    let missing = format!("{dir}/secrets/enrollment");
    let environment = [
        ("RUNNER_BROKER_CONFIG", "wrong.toml"),
        ("RUNNER_BROKER__ENROLLMENT__TOKEN_FILE", missing.as_str()),
        ("RUNNER_BROKER__LOG__LEVL", "canary"),
        ("RUNNER_BROKER_PORT", "tcp://10.0.0.1:80"),
        ("GITEA_API_TOKEN_FILE", "canary"),
    ];
    let arguments = ["--set", "shutdown.deadline=5s", "--set", "store.url=postgres://db"];
    assert_snapshot!(check(&folder, &arguments, &environment), @r#"
    exit: 78
    --- stdout
    --- stderr
    listen.runers (file wrong.toml): is unknown: did you mean listen.runners?
    log.levl (variable RUNNER_BROKER__LOG__LEVL): is unknown: did you mean RUNNER_BROKER__LOG__LEVEL?
    listen.runners (file wrong.toml): "localhost:8080" is no address to listen on: give IP:PORT, for example 0.0.0.0:8080
    gitea.url (file wrong.toml): holds a user name or "@": give the bare address, for example http://gitea:3000
    gitea.scope (file wrong.toml): "orgs:acme" is no scope: a scope is instance, user, org:NAME or repo:OWNER/NAME, names in letters, digits and "-_."
    gitea.registration_token_file (file wrong.toml): [dir] cannot be read: it is a folder; name a file (a container gets an empty folder where the file to mount is missing on the host)
    gitea.api_token_file (variable GITEA_API_TOKEN_FILE): is no absolute path: begin it with /, or give the secret itself as gitea.api_token
    enrollment.token_file (variable RUNNER_BROKER__ENROLLMENT__TOKEN_FILE): [dir]/secrets/enrollment cannot be read: [dir]/secrets is missing; make it, mount it, or correct the path
    credentials.path (file wrong.toml): "runners/{name}" is no absolute path: begin it with /
    credentials.mode (file wrong.toml): "0644" opens the runner's token to every user: end it with 0, for example 0640
    labels.ubuntu-latest (file wrong.toml): "node:20" does not say where jobs run: give host, or docker:// and an image, for example docker://node:20
    shutdown.drain_timeout (default): 5s leaves less than 1s of shutdown.deadline (5s, flag --set) for deregistering: set at most 4s, or a later deadline
    store.url (flag --set): "postgres://db" is no store: give sqlite: and an absolute path, for example sqlite:/var/lib/runner-broker/state.db
    "#);
}

#[test]
fn what_is_needed_is_told_with_the_way_to_give_it() {
    assert_snapshot!(check(&folder(), &["--config", "empty.toml"], &[]), @r"
    exit: 78
    --- stdout
    --- stderr
    gitea.url (not set): give Gitea's address, for example http://gitea:3000 (GITEA_INSTANCE_URL works too)
    gitea.registration_token (not set): give the token that Gitea shows under Actions, Runners, Create new Runner, in a file named by gitea.registration_token_file (GITEA_RUNNER_REGISTRATION_TOKEN_FILE works too)
    ");
}

#[test]
fn a_settings_file_that_is_missing_or_broken_is_told() {
    let folder = folder();
    assert_snapshot!(check(&folder, &["--config", "none.toml"], &[]), @r"
    exit: 78
    --- stdout
    --- stderr
    config (flag --config): none.toml cannot be read: none.toml is missing; make it, mount it, or correct the path
    ");
    fs::write(folder.path().join("broken.toml"), "[gitea]\nregistration_token = 'canary").unwrap();
    assert_snapshot!(check(&folder, &["--config", "broken.toml"], &[]), @r"
    exit: 78
    --- stdout
    --- stderr
    config (file broken.toml): line 2 is no TOML: invalid literal string, expected `'`; correct it there
    ");
}
