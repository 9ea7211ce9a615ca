//! `[gitea]` and `[[gitea.scopes]]`

use secrecy::ExposeSecret;

use super::super::scopes::FIELDS;
use super::super::{Scope, Served};
use super::{Case, ENROLLMENT, REGISTRATION};

const FILE: &str = " (file DIR/config.toml)";

/// Without a token under `[gitea]`.
fn bare() -> Case {
    Case::minimal().env("GITEA_RUNNER_REGISTRATION_TOKEN", "")
}

fn org(name: &str) -> Scope {
    Scope::Org(name.into())
}

/// Scope and tokens of each, the default first.
fn served(case: &Case) -> Vec<(Scope, Option<String>, Option<String>)> {
    let text = |token: &Option<secrecy::SecretString>| {
        token.as_ref().map(|token| token.expose_secret().to_owned())
    };
    let gitea = case.good().settings.gitea;
    gitea
        .served()
        .map(|one: &Served| {
            (one.scope.clone(), text(&one.registration_token), text(&one.api_token))
        })
        .collect()
}

fn some(text: &str) -> Option<String> {
    Some(text.into())
}

/// What is wrong, without what is the same in each line.
#[track_caller]
fn told(case: &Case) -> Vec<String> {
    let short = |line: String| line.replace("gitea.scopes[", "[").replace(FILE, "");
    case.bad().into_iter().map(short).collect()
}

#[test]
fn the_section_itself_is_a_scope_with_either_token_or_both() {
    let instance = Scope::Instance;
    assert_eq!(served(&Case::minimal()), [(instance.clone(), some(REGISTRATION), None)]);
    let api = bare().env("GITEA_API_TOKEN", "of-api").set("gitea.scope", "repo:acme/app");
    let repo = Scope::Repo { owner: "acme".into(), name: "app".into() };
    assert_eq!(served(&api), [(repo, None, some("of-api"))]);
    let both = Case::minimal().env("GITEA_API_TOKEN", "of-api");
    assert_eq!(served(&both), [(instance, some(REGISTRATION), some("of-api"))]);
    let section = both.good().settings.gitea.default.section;
    assert_eq!(section, "gitea");
    let missing = bare().set("gitea.scope", "org:acme").bad();
    assert_eq!(missing.len(), 1);
    assert!(missing[0].contains("gitea.registration_token (not set): give the token"));
    assert!(missing[0].contains("or an API token by gitea.api_token_file"), "{}", missing[0]);
}

#[test]
fn further_scopes_come_after_it_by_text_and_by_file() {
    let case = Case::minimal();
    let (registration, api) = (case.file("r", "00123\n"), case.file("a", "of-api\n"));
    let case = case.toml(&format!(
        "[[gitea.scopes]]\nscope = \"org:acme\"\nregistration_token_file = {registration:?}\n\
         api_token_file = {api:?}\n\
         [[gitea.scopes]]\nscope = \"user\"\napi_token = \"of-api\"\n\
         [[gitea.scopes]]\nscope = \"repo:o/n\"\nregistration_token = \"1e5\"\n"
    ));
    let repo = Scope::Repo { owner: "o".into(), name: "n".into() };
    assert_eq!(
        served(&case),
        [
            (Scope::Instance, some(REGISTRATION), None),
            (org("acme"), some("00123"), some("of-api")),
            (Scope::User, None, some("of-api")),
            (repo, some("1e5"), None),
        ]
    );
    let loaded = case.good();
    assert_eq!(loaded.settings.gitea.further[0].section, "gitea.scopes[org:acme]");
    let of_scopes = loaded
        .used
        .iter()
        .filter_map(|used| Some((used.key.strip_prefix("gitea.scopes")?, used.value.as_str())));
    assert_eq!(
        of_scopes.collect::<Vec<_>>(),
        [
            ("[org:acme].registration_token_file", registration.as_str()),
            ("[org:acme].api_token_file", api.as_str()),
            ("[user].registration_token", "(not set)"),
            ("[user].api_token", "(hidden)"),
            ("[repo:o/n].registration_token", "(hidden)"),
            ("[repo:o/n].api_token", "(not set)"),
        ]
    );
}

#[test]
fn without_tokens_of_the_section_the_tables_are_all() {
    let case = || {
        bare().toml(
            "[[gitea.scopes]]\nscope = \"org:a\"\napi_token = \"x\"\n\
             [[gitea.scopes]]\nscope = \"org:b\"\napi_token = \"x\"\n\
             [[gitea.scopes]]\nscope = \"org:c\"\napi_token = \"x\"\n",
        )
    };
    let order = |case: &Case| -> Vec<_> {
        served(case).into_iter().map(|(scope, ..)| scope.to_string()).collect()
    };
    assert_eq!(order(&case()), ["org:a", "org:b", "org:c"]);
    let named = case().set("gitea.scope", "org:b");
    assert_eq!(order(&named), ["org:b", "org:a", "org:c"]);
    assert_eq!(named.good().settings.gitea.default.section, "gitea.scopes[org:b]");
    case().set("gitea.scope", "org:d").complains(
        "gitea.scope (flag --set): org:d has no token: give gitea.registration_token_file or \
         gitea.api_token_file, or name one of [[gitea.scopes]]",
    );
    // One token in the environment, and the section is a scope of its own.
    let own = case().env("GITEA_API_TOKEN", "y");
    assert_eq!(order(&own), ["instance", "org:a", "org:b", "org:c"]);
    assert_eq!(
        told(&own.set("gitea.scope", "org:b")),
        ["[2].scope: org:b is served already: give another one, for example org:acme"]
    );
}

#[test]
fn what_is_wrong_with_a_table_is_told_at_once() {
    for (table, wrong) in [
        ("api_token = \"x\"", "[1].scope: is missing: give one, for example org:acme"),
        ("scope = \"acme\"\napi_token = \"x\"", "[1].scope: \"acme\" is no scope: a scope is"),
        ("scope = 1\napi_token = \"x\"", "[1].scope: is no text: put it in quotes"),
        ("scope = \"INSTANCE\"\napi_token = \"x\"", "[1].scope: \"INSTANCE\" is no scope"),
        ("scope = \"instance\"\napi_token = \"x\"", "[1].scope: instance is served already"),
        (
            "scope = \"org:a\"",
            "[org:a].registration_token (not set): give the token that Gitea shows under Actions, \
             Runners, Create new Runner, in a file named by \
             [org:a].registration_token_file, or an API token by [org:a].api_token_file",
        ),
        (
            "scope = \"org:a\"\napi_token = 5\nregistration_token = \"x\"",
            "[org:a].api_token: is no text: put it in quotes",
        ),
        (
            "scope = \"org:a\"\napi_token = \"canary\u{e9}\"",
            "[org:a].api_token: holds what no token of Gitea does: give it as Gitea showed it",
        ),
        (
            "scope = \"org:a\"\napi_token_file = \"canary\"",
            "[org:a].api_token_file: is no absolute path: begin it with /",
        ),
        (
            "scope = \"org:a\"\napi_token = \"canary\"\napi_token_file = \"/canary\"",
            "[org:a].api_token: is given, and so is [org:a].api_token_file (file DIR/config.toml)",
        ),
        (
            "scope = \"org:a\"\napi_token_fil = \"/x\"\napi_token = \"x\"",
            "[org:a].api_token_fil: is unknown: did you mean api_token_file?",
        ),
        (
            "scope = \"org:a\"\napi_token = \"x\"\nurl = \"canary\"",
            "[org:a].url: is unknown: remove it, or correct its name",
        ),
        (
            "scope = \"org:a\"\napi_token_file = \"/none\"",
            "[org:a].api_token_file: /none cannot be read: /none is missing",
        ),
        (
            "scope = \"org:a\"\nregistration_token = \"00123#'\\\"1e5\"",
            "[org:a].registration_token: is the same as gitea.registration_token: Gitea has one for \
             each scope, so give the one that it shows there",
        ),
    ] {
        let bad = told(&Case::minimal().toml(&format!("[[gitea.scopes]]\n{table}\n")));
        assert_eq!(bad.len(), 1, "{bad:?}");
        assert!(bad[0].replace(FILE, "").starts_with(&wrong.replace(FILE, "")), "{}", bad[0]);
        assert!(!bad[0].contains("canary\u{e9}") && !bad[0].contains("\"canary\""), "{}", bad[0]);
    }
    let all = told(&Case::minimal().toml(
        "[[gitea.scopes]]\nscop = \"org:a\"\n[[gitea.scopes]]\nscope = \"org:b\"\napi_token = \"x\"\n\
         [[gitea.scopes]]\nscope = \"org:B\"\napi_token = \"x\"\n",
    ));
    let keys: Vec<_> = all.iter().map(|line| line.split_once(':').unwrap().0).collect();
    assert_eq!(keys, ["[1].scop", "[1].scope", "[1].registration_token (not set)", "[3].scope"]);
    assert!(all[0].contains("did you mean scope?"));
    assert!(all[3].contains("org:B is served already"), "Gitea's names have no case");
}

#[test]
fn other_shapes_are_told_and_nothing_else() {
    const TABLES: &str = "write [[gitea.scopes]], in two brackets, before each scope's keys";
    for toml in ["[gitea.scopes]\nscope = \"org:a\"\n", "[gitea]\nscopes = \"org:a\"\n"] {
        for case in [Case::minimal(), bare()] {
            let bad = case.toml(toml).bad();
            assert_eq!(bad, [format!("gitea.scopes{FILE}: is no list of tables: {TABLES}")]);
        }
    }
    bare()
        .toml("[gitea]\nscopes = [\"org:a\"]\n")
        .complains(&format!("gitea.scopes[1]{FILE}: is no table: {TABLES}"));
    let empty = "[gitea]\nscopes = []\n";
    Case::minimal().toml(empty).good();
    assert!(bare().toml(empty).bad()[0].starts_with("gitea.registration_token (not set)"));
}

#[test]
fn only_the_file_can_hold_them() {
    const ONLY: &str = "only the settings file can hold these: write [[gitea.scopes]] there, with a \
                        scope and a registration_token_file or an api_token_file";
    for name in ["RUNNER_BROKER__GITEA__SCOPES", "RUNNER_BROKER__GITEA__SCOPES__0__API_TOKEN"] {
        let bad = Case::minimal().env(name, "canary").bad();
        assert_eq!(bad.len(), 1, "{bad:?}");
        assert!(bad[0].ends_with(&format!(" (variable {name}): {ONLY}")), "{}", bad[0]);
        assert!(!bad[0].contains("canary"));
    }
    for key in ["gitea.scopes", "gitea.scopes[org:a].api_token_file"] {
        Case::minimal().set(key, "/x").complains(&format!("{key} (flag --set): {ONLY}"));
    }
}

#[test]
fn tokens_and_runners_name_one_of_them() {
    let scopes = "[[gitea.scopes]]\nscope = \"org:acme\"\napi_token = \"x\"\n";
    let declared = |scope: &str| {
        let own = ENROLLMENT.replace("canary", "other");
        format!(
            "[[enrollment.tokens]]\nname = \"t\"\ntoken = \"{own}\"\n{scope}\n\
             [[runners]]\nname = \"r\"\nlabels = [\"a:host\"]\n{scope}\n"
        )
    };
    let case = |scope: &str| {
        let case = Case::minimal().set("listen.public_url", "http://broker:8080");
        case.toml(scopes).toml(&declared(scope))
    };
    for (named, scope) in [("", Scope::Instance), ("scope = \"org:acme\"", org("acme"))] {
        let settings = case(named).good().settings;
        assert_eq!(settings.enrollment.tokens[0].draft.policy.scope, scope);
        assert_eq!(settings.runners[0].scope, scope);
    }
    let bad = case("scope = \"org:other\"").bad();
    assert_eq!(bad.len(), 2, "{bad:?}");
    for line in &bad {
        assert!(
            line.ends_with(
                ": org:other is none of the scopes that are served (instance, org:acme): name one of \
                 them, or give this one its tokens with [[gitea.scopes]]"
            ),
            "{line}"
        );
    }
    // Where the scopes themselves are wrong, that alone is told.
    let wrong = case("scope = \"org:acme\"").toml("[[gitea.scopes]]\nscope = \"org:acme\"\n");
    let bad = wrong.bad();
    assert!(bad.iter().all(|line| line.starts_with("gitea.scopes[")), "{bad:?}");
}

#[test]
fn no_own_secret_is_one_of_any_scope() {
    for field in ["registration_token", "api_token"] {
        Case::minimal()
            .toml(&format!("[[gitea.scopes]]\nscope = \"user\"\n{field} = \"{ENROLLMENT}\"\n"))
            .complains(&format!(
                "enrollment.token (variable RUNNER_BROKER__ENROLLMENT__TOKEN): is the same as \
                 gitea.scopes[user].{field}, which runners must never see: make a new one with openssl \
                 rand -hex 32"
            ));
    }
}

#[test]
fn the_tokens_are_in_nothing_that_is_shown() {
    let loaded = Case::minimal()
        .toml(
            "[[gitea.scopes]]\nscope = \"user\"\nregistration_token = \"canary-r\"\n\
             api_token = \"canary-a\"\n",
        )
        .good();
    let shown = format!("{:?} {:?} {:?}", loaded.settings, loaded.used, loaded.warnings);
    assert!(!shown.contains("canary-r") && !shown.contains("canary-a"), "{shown}");
}

#[test]
fn the_example_shows_every_field() {
    let example = include_str!("../../../config/example.toml");
    let table = example.split_once("#[[gitea.scopes]]").unwrap().1.split_once("\n[").unwrap().0;
    for field in FIELDS.iter().filter(|field| !field.ends_with("token")) {
        assert!(table.contains(&format!("\n#{field} = ")), "{field}");
    }
}
