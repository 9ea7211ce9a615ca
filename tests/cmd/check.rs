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
    listen.pass all default
    listen.tls.cert (not set) default
    listen.tls.key (not set) default
    listen.tls.client_ca (not set) default
    limits.connections 16384 default
    limits.connections_per_peer 4096 default
    limits.requests 4096 default
    limits.requests_per_peer 1024 default
    limits.requests_per_runner 64 default
    limits.streams 128 default
    limits.resets 20 default
    limits.headers 80 default
    limits.header_bytes 65536 default
    limits.head_timeout 30s default
    limits.idle_timeout 2m default
    limits.body_timeout 2m default
    limits.write_timeout 2m default
    limits.message_bytes 65536 default
    limits.message_ratio 100 default
    limits.message_timeout 30s default
    limits.registrations 1024 default
    limits.admin_connections 128 default
    admin.listen 127.0.0.1:8081 default
    admin.socket /var/lib/runner-broker/admin.sock default
    admin.token (not set) default
    admin.public_url (not set) default
    admin.trusted_proxies (not set) default
    admin.user_header (not set) default
    admin.allow_cidrs (not set) default
    admin.tls.cert (not set) default
    admin.tls.key (not set) default
    admin.tls.client_ca (not set) default
    gitea.url http://gitea:3000/git file config.toml
    gitea.scope instance default
    gitea.registration_token_file [dir]/registration file config.toml
    gitea.api_token (hidden) variable GITEA_API_TOKEN
    gitea.ca_file (not set) default
    gitea.client_cert_file (not set) default
    gitea.client_key_file (not set) default
    gitea.lost_wakeup_workaround true default
    enrollment.token_file [dir]/enrollment file config.toml
    credentials.path /runners/{name}/.runner default
    credentials.address auto default
    credentials.mode 0600 default
    credentials.uid (not set) default
    credentials.gid (not set) default
    labels.ubuntu-22.04 docker://node:20 file config.toml
    lease.expire_after 10m default
    lease.revive_within 1day default
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
fn declared_tokens_are_shown_with_what_they_set() {
    let folder = folder();
    let dir = folder.path().display();
    let tokens = format!(
        "[gitea]\nurl = \"http://gitea:3000\"\nregistration_token_file = \"{dir}/registration\"\n\
         [[enrollment.tokens]]\nname = \"ci-builders\"\ntoken_file = \"{dir}/enrollment\"\n\
         labels = [\"ubuntu-latest\", \"ubuntu-22.04\"]\nephemeral_only = true\nmax_runners = 10\n\
         allowed_cidrs = [\"10.0.0.0/8\", \"192.0.2.7\"]\n\
         [[enrollment.tokens]]\nname = \"guest\"\ntoken = \"{CANARY}-of-guest\"\n\
         kind = \"single_use\"\nexpires_at = 2020-01-01T00:00:00+02:00\n"
    );
    let path = folder.path().join("tokens.toml");
    fs::write(&path, tokens).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let shown = check(&folder, &["--config", "tokens.toml"], &[]);
    let told: Vec<_> =
        shown.lines().filter(|line| line.starts_with("e") || line.starts_with("warning")).collect();
    assert_snapshot!(told.join("\n"), @r"
    exit: 0
    enrollment.token (not set) default
    enrollment.tokens[ci-builders].token_file [dir]/enrollment file tokens.toml
    enrollment.tokens[ci-builders].labels ubuntu-latest,ubuntu-22.04 file tokens.toml
    enrollment.tokens[ci-builders].ephemeral_only true file tokens.toml
    enrollment.tokens[ci-builders].max_runners 10 file tokens.toml
    enrollment.tokens[ci-builders].allowed_cidrs 10.0.0.0/8,192.0.2.7/32 file tokens.toml
    enrollment.tokens[guest].token (hidden) file tokens.toml
    enrollment.tokens[guest].kind single_use file tokens.toml
    enrollment.tokens[guest].expires_at 2019-12-31T22:00:00Z file tokens.toml
    warning: enrollment.tokens[guest].expires_at: is over: the token admits nobody; give a later time, or remove it
    ");
}

#[test]
fn declared_runners_are_shown_with_their_labels_and_need_no_token() {
    let folder = folder();
    let dir = folder.path().display();
    let runners = format!(
        "[listen]\npublic_url = \"http://broker:8080\"\n\
         [gitea]\nurl = \"http://gitea:3000\"\nregistration_token_file = \"{dir}/registration\"\n\
         [[runners]]\nname = \"builder-1\"\n\
         labels = [\"ubuntu-latest:docker://node:20\", \"metal\"]\n\
         [[runners]]\nname = \"builder-2\"\nlabels = [\"metal:host\"]\n\
         [labels]\nmetal = \"host\"\n"
    );
    fs::write(folder.path().join("runners.toml"), runners).unwrap();
    let shown = check(&folder, &["--config", "runners.toml"], &[]);
    let of_runners = |line: &&str| line.starts_with("exit") || line.starts_with("runners");
    let told: Vec<_> = shown.lines().filter(of_runners).collect();
    assert_snapshot!(told.join("\n"), @r"
    exit: 0
    runners[builder-1].labels ubuntu-latest:docker://node:20,metal file runners.toml
    runners[builder-2].labels metal:host file runners.toml
    ");
}

#[test]
fn all_that_is_wrong_with_runners_is_told_at_once() {
    let runners = "[credentials]\npath = \"/data/.runner\"\n\
         [[runners]]\nname = \"builder-1\"\nlabel = [\"metal:host\"]\n\
         [[runners]]\nname = \"builder-1\"\nlabels = [\"metal\", \"a:node:20\"]\n\
         [[runners]]\nlabels = [\"metal\", \"metal:host\"]\n";
    let folder = folder();
    fs::write(folder.path().join("wrong.toml"), runners).unwrap();
    let environment = [
        ("GITEA_INSTANCE_URL", "http://gitea:3000"),
        ("GITEA_RUNNER_REGISTRATION_TOKEN", "canary-of-gitea"),
        ("RUNNER_BROKER__RUNNERS", "builder-1"),
    ];
    assert_snapshot!(check(&folder, &["--config", "wrong.toml"], &environment), @r#"
    exit: 78
    --- stdout
    --- stderr
    runners (variable RUNNER_BROKER__RUNNERS): only the settings file can hold these: write [[runners]] there, with a name and labels
    runners (file wrong.toml): are 3, and credentials.path (/data/.runner) has room for one: put {name} into that path, for example /runners/{name}/.runner
    listen.public_url (not set): is needed for the files of [[runners]]: give the broker's address as runners know it, for example http://broker:8080, or set credentials.address
    runners[builder-1].label (file wrong.toml): is unknown: did you mean labels?
    runners[builder-1].labels (not set): give the labels in brackets, for example ["ubuntu-latest:docker://node:20"]
    runners[2].name (file wrong.toml): "builder-1" is the name of an earlier runner too: give another one
    runners[2].labels (file wrong.toml): "node:20" does not say where jobs run: give host, or docker:// and an image, for example docker://node:20
    runners[3].name (file wrong.toml): is missing: give one, for example builder-1
    runners[3].labels (file wrong.toml): "metal" does not say where jobs run: give "metal:docker://node:20" or the like, or its form in [labels]; "metal" is there twice: leave one of them out
    "#);
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
fn all_that_is_wrong_with_tokens_and_networks_is_told_at_once() {
    let folder = folder();
    let dir = folder.path().display();
    let tokens = format!(
        "[admin]\ntoken = \"{CANARY}\"\nuser_header = \"X-WebAuth-User\"\nallow_cidrs = [\"10.0.0.1/8\"]\n\
         [store]\nkeep_events = \"5m\"\n\
         [[enrollment.tokens]]\nname = \"ci\"\ntoken_file = \"{dir}/enrollment\"\nmax_use = 3\nmax_runners = 0\n\
         [[enrollment.tokens]]\nname = \"CI\"\ntoken_file = \"{dir}/none\"\nlabels = \"ubuntu-latest\"\n\
         [[enrollment.tokens]]\nname = \"ci\"\nscope = \"org:acme\"\nexpires_at = \"tomorrow\"\n"
    );
    fs::write(folder.path().join("wrong.toml"), tokens).unwrap();
    let environment = [
        ("GITEA_INSTANCE_URL", "http://gitea:3000"),
        ("GITEA_RUNNER_REGISTRATION_TOKEN", "canary-of-gitea"),
        ("RUNNER_BROKER__ENROLLMENT__TOKENS", "canary"),
        ("RUNNER_BROKER__LISTEN__TRUSTED_PROXIES", "10.0.0.0/8, proxy"),
    ];
    assert_snapshot!(check(&folder, &["--config", "wrong.toml"], &environment), @r#"
    exit: 78
    --- stdout
    --- stderr
    enrollment.tokens (variable RUNNER_BROKER__ENROLLMENT__TOKENS): only the settings file can hold these: write [[enrollment.tokens]] there, with a name and a token_file
    listen.trusted_proxies (variable RUNNER_BROKER__LISTEN__TRUSTED_PROXIES): "proxy" is no network: give an address, or one with the length of its prefix, for example 10.0.0.0/8
    admin.user_header (file wrong.toml): is believed from trusted proxies alone: set admin.trusted_proxies too, or leave it out
    admin.allow_cidrs (file wrong.toml): "10.0.0.1/8" is an address within a network: give 10.0.0.0/8 for the network, or 10.0.0.1 for that address alone
    enrollment.tokens[ci].max_use (file wrong.toml): is unknown: did you mean max_uses?
    enrollment.tokens[ci].max_runners (file wrong.toml): 0 would admit nobody: give 1 or more, or leave it out
    enrollment.tokens[2].name (file wrong.toml): "CI" is no name: give 1 to 64 small letters, digits and "-_.", a letter or digit first, for example ci-builders
    enrollment.tokens[2].token_file (file wrong.toml): [dir]/none cannot be read: [dir]/none is missing; make it, mount it, or correct the path
    enrollment.tokens[2].labels (file wrong.toml): "ubuntu-latest" is no list: put it in brackets, ["ubuntu-latest"]
    enrollment.tokens[3].name (file wrong.toml): "ci" is the name of an earlier token too: give another one
    enrollment.tokens[3].token (not set): give what runners present, 32 characters or more, in a file named by token_file; openssl rand -hex 32 makes one
    enrollment.tokens[3].scope (file wrong.toml): org:acme is none of the scopes that are served (instance): name one of them, or give this one its tokens with [[gitea.scopes]]
    enrollment.tokens[3].expires_at (file wrong.toml): "tomorrow" is no point in time: give date, time and offset, for example 2030-01-31T12:00:00Z
    enrollment.tokens[ci].token_file (file wrong.toml): is the same as admin.token, which runners must never see: make a new one with openssl rand -hex 32
    store.keep_events (file wrong.toml): 5m is not within 1h and 10years: set a time that is, for example 90days
    "#);
}

#[test]
fn what_is_needed_is_told_with_the_way_to_give_it() {
    assert_snapshot!(check(&folder(), &["--config", "empty.toml"], &[]), @r"
    exit: 78
    --- stdout
    --- stderr
    gitea.url (not set): give Gitea's address, for example http://gitea:3000 (GITEA_INSTANCE_URL works too)
    gitea.registration_token (not set): give the token that Gitea shows under Actions, Runners, Create new Runner, in a file named by gitea.registration_token_file (GITEA_RUNNER_REGISTRATION_TOKEN_FILE works too), or an API token by gitea.api_token_file, with which the broker gets it itself
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
