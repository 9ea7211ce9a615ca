//! `[[enrollment.tokens]]`

use std::time::{Duration, SystemTime};

use secrecy::ExposeSecret;

use super::super::tokens::FIELDS;
use super::super::{Scope, load};
use super::{Case, ENROLLMENT};
use crate::broker::token::{Draft, Kind, Policy};

/// A secret that is good and no other one.
fn secret(name: &str) -> String {
    format!("canary-of-{name}-0123456789abcdef0123456789")
}

/// A good table for each name, with more in it.
fn declaring(tables: &[(&str, &str)]) -> Case {
    tables.iter().fold(Case::minimal(), |case, (name, more)| {
        let token = secret(name);
        case.toml(&format!(
            "[[enrollment.tokens]]\nname = \"{name}\"\ntoken = \"{token}\"\n{more}\n"
        ))
    })
}

/// What is wrong with the tokens, without what is the same in each line.
#[track_caller]
fn told(case: &Case) -> Vec<String> {
    let short = |line: String| line.replace("enrollment.tokens[", "[").replace(FILE, "");
    case.bad().into_iter().map(short).collect()
}

const FILE: &str = " (file DIR/config.toml)";

#[test]
fn a_table_is_a_token_with_its_policy() {
    let case = declaring(&[(
        "all",
        "kind = \"single_use\"\ndescription = \"Builders, of all\"\nscope = \"org:acme\"\n\
         labels = [\"ubuntu-latest\", \"ubuntu-22.04\"]\nname_pattern = \"b-*\"\nephemeral_only = true\n\
         max_uses = 7\nmax_runners = 3\nexpires_at = 2099-01-01T01:00:00+01:00\n\
         allowed_cidrs = [\"10.0.0.0/8\", \"192.0.2.1\"]\n",
    )]);
    let file = case.file("token", &secret("file"));
    let loaded = case
        .toml(&format!("[[enrollment.tokens]]\nname = \"0.a_b-c\"\ntoken_file = \"{file}\"\n"))
        .set("gitea.scope", "org:acme")
        .good();
    let [all, plain] = &loaded.settings.enrollment.tokens[..] else { panic!("two tokens") };

    let policy = Policy {
        scope: Scope::Org("acme".into()),
        labels: vec!["ubuntu-latest".into(), "ubuntu-22.04".into()],
        name_pattern: Some("b-*".into()),
        ephemeral_only: true,
        max_uses: Some(7),
        max_runners: Some(3),
        expires_at: Some(humantime::parse_rfc3339("2099-01-01T00:00:00Z").unwrap()),
        allowed_cidrs: vec!["10.0.0.0/8".parse().unwrap(), "192.0.2.1/32".parse().unwrap()],
    };
    let description = "Builders, of all".into();
    assert_eq!((all.name.as_str(), all.token.expose_secret()), ("all", secret("all").as_str()));
    assert_eq!(all.draft, Draft { kind: Kind::SingleUse, description, policy });

    let policy = Policy::of_scope(Scope::Org("acme".into()));
    assert_eq!(plain.name, "0.a_b-c");
    assert_eq!(plain.token.expose_secret(), secret("file"));
    assert_eq!(plain.draft, Draft { kind: Kind::Reusable, description: String::new(), policy });

    let of_tokens = loaded.used.iter().filter_map(|used| {
        Some((used.key.strip_prefix("enrollment.tokens")?, used.value.as_str()))
    });
    assert_eq!(
        of_tokens.collect::<Vec<_>>(),
        [
            ("[all].token", "(hidden)"),
            ("[all].kind", "single_use"),
            ("[all].description", "Builders, of all"),
            ("[all].scope", "org:acme"),
            ("[all].labels", "ubuntu-latest,ubuntu-22.04"),
            ("[all].name_pattern", "b-*"),
            ("[all].ephemeral_only", "true"),
            ("[all].max_uses", "7"),
            ("[all].max_runners", "3"),
            ("[all].expires_at", "2099-01-01T00:00:00Z"),
            ("[all].allowed_cidrs", "10.0.0.0/8,192.0.2.1/32"),
            ("[0.a_b-c].token_file", file.as_str()),
        ]
    );
}

#[test]
fn a_time_is_read_as_text_too_and_one_that_is_over_is_a_warning() {
    let soon = SystemTime::now() + Duration::from_secs(3600);
    let soon = format!("expires_at = \"{}\"", humantime::format_rfc3339(soon));
    let loaded =
        declaring(&[("young", &soon), ("old", "expires_at = 2020-01-01T00:00:00Z")]).good();
    assert_eq!(
        loaded.warnings,
        [
            "enrollment.tokens[old].expires_at: is over: the token admits nobody; give a later time, \
          or remove it"
        ]
    );
    let past = humantime::parse_rfc3339("2020-01-01T00:00:00Z").unwrap();
    assert_eq!(loaded.settings.enrollment.tokens[1].draft.policy.expires_at, Some(past));
}

/// Each wrong line makes one problem, which begins with its key.
#[test]
fn each_field_is_checked() {
    for (line, message) in [
        ("kind = \"once\"", "kind: \"once\" is unknown: give reusable or single_use"),
        ("kind = 1", "kind: is no text: put it in quotes"),
        ("description = \"a\\nb\"", "description: give one line of at most 500 characters"),
        ("scope = \"acme\"", "scope: \"acme\" is no scope: a scope is instance, user, org:NAME"),
        ("scope = \"user\"", "scope: user is none of the scopes that are served (instance)"),
        ("labels = \"a\"", "labels: \"a\" is no list: put it in brackets, [\"a\"]"),
        ("labels = [1]", "labels: is no text: put it in quotes"),
        ("labels = [\"a:host\"]", "labels: give at most 256 bare names without colons"),
        ("labels.a = \"host\"", "labels: is no list: give texts in brackets"),
        ("name_pattern = \"\"", "name_pattern: give at most 255 characters"),
        ("name_pattern = true", "name_pattern: is no text: put it in quotes"),
        ("ephemeral_only = 1", "ephemeral_only: is neither true nor false: give one of them"),
        ("ephemeral_only = \"yes\"", "ephemeral_only: \"yes\" is unknown: give true or false"),
        ("max_uses = 0", "max_uses: 0 would admit nobody: give 1 or more, or leave it out"),
        ("max_uses = -1", "max_uses: \"-1\" is no whole number from 1 to 4294967295"),
        ("max_runners = 1.5", "max_runners: is no whole number"),
        ("max_runners = 4294967296", "max_runners: \"4294967296\" is no whole number"),
        ("expires_at = 2099-01-01", "expires_at: \"2099-01-01\" is no point in time"),
        ("expires_at = 2099-01-01T00:00:00", "expires_at: \"2099-01-01T00:00:00\" is no point"),
        ("expires_at = \"1day\"", "expires_at: \"1day\" is no point in time: give date, time and"),
        ("allowed_cidrs = [\"10.1.0.0/8\"]", "allowed_cidrs: \"10.1.0.0/8\" is an address within"),
        ("max_use = 1", "max_use: is unknown: did you mean max_uses?"),
        ("enabled = false", "enabled: is unknown: remove it, or correct its name"),
    ] {
        let told = told(&declaring(&[("ci", line)]));
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with(&format!("[ci].{message}")), "{line}: {}", told[0]);
    }
}

#[test]
fn names_are_needed_good_and_there_once() {
    let (one, two) = (secret("one"), secret("two"));
    let case = declaring(&[("ci", ""), ("settings", ""), ("CI", "max_uses = 0")])
        .toml(&format!("[[enrollment.tokens]]\ntoken = \"{one}\"\nlabels = 1\n"))
        .toml(&format!("[[enrollment.tokens]]\nname = \"ci\"\ntoken = \"{two}\"\n"))
        .toml(&format!("[[enrollment.tokens]]\nname = 7\ntoken = \"{two}x\"\n"));
    assert_eq!(
        told(&case),
        [
            "[2].name: \"settings\" is the name of enrollment.token: give another one, for example \
             ci-builders",
            "[3].name: \"CI\" is no name: give 1 to 64 small letters, digits and \"-_.\", a letter \
             or digit first, for example ci-builders",
            "[3].max_uses: 0 would admit nobody: give 1 or more, or leave it out",
            "[4].name: is missing: give one, for example ci-builders",
            "[4].labels: is no list: give texts in brackets, [\"…\", \"…\"]",
            "[5].name: \"ci\" is the name of an earlier token too: give another one",
            "[6].name: is no text: put it in quotes",
        ]
    );
}

#[test]
fn the_secret_is_needed_strong_and_no_other_one() {
    let twice = secret("twice");
    let case = Case::minimal().toml(&format!(
        "[[enrollment.tokens]]\nname = \"none\"\n\
         [[enrollment.tokens]]\nname = \"short\"\ntoken = \"canary\"\n\
         [[enrollment.tokens]]\nname = \"kind\"\ntoken = [\"canary\"]\n\
         [[enrollment.tokens]]\nname = \"path\"\ntoken_file = \"canary\"\n\
         [[enrollment.tokens]]\nname = \"both\"\ntoken = \"canary\"\ntoken_file = \"/canary\"\n\
         [[enrollment.tokens]]\nname = \"one\"\ntoken = \"{twice}\"\n\
         [[enrollment.tokens]]\nname = \"two\"\ntoken = \"{twice}\"\n\
         [[enrollment.tokens]]\nname = \"main\"\ntoken = \"{ENROLLMENT}\"\n"
    ));
    assert_eq!(
        told(&case),
        [
            "[none].token (not set): give what runners present, 32 characters or more, in a file \
             named by token_file; openssl rand -hex 32 makes one",
            "[short].token: is not 32 or more visible ASCII characters: make a new one with openssl \
             rand -hex 32",
            "[kind].token: is no text: put it in quotes",
            "[path].token_file: is no absolute path: begin it with /, or give the secret itself as \
             [path].token",
            "[both].token: is given, and so is [both].token_file: remove one of them",
            "[two].token: is the same as [one].token: make a new one with openssl rand -hex 32",
            "[main].token: is the same as enrollment.token: make a new one with openssl rand -hex 32",
        ]
    );
}

#[test]
fn other_shapes_are_told() {
    const TABLES: &str = "write [[enrollment.tokens]], in two brackets, before each token's keys";
    for toml in [
        "[enrollment.tokens]\nname = \"ci\"\ntoken = \"canary\"\n",
        "enrollment.tokens = \"canary\"",
    ] {
        Case::minimal()
            .toml(toml)
            .complains(&format!("enrollment.tokens{FILE}: is no list of tables: {TABLES}"));
    }
    Case::minimal()
        .toml("[enrollment]\ntokens = [\"canary\"]\n")
        .complains(&format!("enrollment.tokens[1]{FILE}: is no table: {TABLES}"));
    Case::empty()
        .env("GITEA_INSTANCE_URL", "http://gitea")
        .env("GITEA_RUNNER_REGISTRATION_TOKEN", "x")
        .toml("[[enrollment.token]]\nname = \"ci\"\n")
        .complains(&format!(
            "enrollment.token{FILE}: is no text: put it in quotes, or did you mean \
             [[enrollment.tokens]]?"
        ));
}

#[test]
fn only_the_file_can_hold_them() {
    const ONLY: &str = "only the settings file can hold these: write [[enrollment.tokens]] there, \
                        with a name and a token_file";
    for name in ["RUNNER_BROKER__ENROLLMENT__TOKENS", "RUNNER_BROKER__ENROLLMENT__TOKENS__0__TOKEN"]
    {
        let bad = Case::minimal().env(name, "canary").bad();
        assert_eq!(bad.len(), 1, "{bad:?}");
        assert!(bad[0].ends_with(&format!(" (variable {name}): {ONLY}")), "{}", bad[0]);
    }
    for key in ["enrollment.tokens", "enrollment.tokens[ci].token"] {
        let case = Case::minimal().set(key, "canary");
        case.complains(&format!("{key} (flag --set): {ONLY}"));
    }
}

#[test]
fn a_scope_that_is_wrong_itself_says_nothing_of_the_tokens() {
    let case = declaring(&[("ci", "scope = \"org:acme\"")]).set("gitea.scope", "orgs:acme");
    let keys: Vec<_> = load(&case.sources()).unwrap_err().0.into_iter().map(|p| p.key).collect();
    assert_eq!(keys, ["gitea.scope"]);
}

#[test]
fn the_example_shows_every_field() {
    let example = include_str!("../../../config/example.toml");
    let tables = example.split_once("#[[enrollment.tokens]]").unwrap().1;
    let table = tables.split_once("\n[").unwrap().0;
    for field in FIELDS.iter().filter(|field| **field != "token") {
        assert!(table.contains(&format!("\n#{field} = ")), "{field}");
    }
}
