//! How secrets are given, and which are refused.

use secrecy::ExposeSecret;

use super::super::load_admin;
use super::{Case, ENROLLMENT, REGISTRATION};

#[test]
fn a_secret_comes_by_text_or_by_file_and_not_by_both() {
    let case = Case::minimal();
    let file = case.file("token", "canary\n");
    let case = case.env("GITEA_RUNNER_REGISTRATION_TOKEN_FILE", &file);
    case.complains(
        "gitea.registration_token (variable GITEA_RUNNER_REGISTRATION_TOKEN): is given, and so is \
         gitea.registration_token_file (variable GITEA_RUNNER_REGISTRATION_TOKEN_FILE): remove one \
         of them",
    );
    let loaded = case.env("GITEA_RUNNER_REGISTRATION_TOKEN", "").good();
    assert_eq!(
        loaded.settings.gitea.default.registration_token.as_ref().unwrap().expose_secret(),
        "canary"
    );
}

#[test]
fn a_secret_given_in_the_wrong_place_is_not_repeated() {
    Case::minimal().env("GITEA_API_TOKEN_FILE", "canary").complains(
        "gitea.api_token_file (variable GITEA_API_TOKEN_FILE): is no absolute path: begin it with /, \
         or give the secret itself as gitea.api_token",
    );
    Case::minimal().set("gitea.api_token", "canary").complains(
        "gitea.api_token (flag --set): a secret in an argument can be read by every user: give a \
         file with gitea.api_token_file",
    );
    Case::minimal().env("GITEA_API_TOKEN", "canary\u{e9}").complains(
        "gitea.api_token (variable GITEA_API_TOKEN): holds what no token of Gitea does: give it as \
         Gitea showed it",
    );
}

#[test]
fn a_settings_file_with_a_secret_in_it_is_for_nobody_else() {
    use std::os::unix::fs::PermissionsExt;
    let with = |text: &str, mode: u32| {
        let case = Case::minimal().toml(text);
        let path = case.folder.path().join("config.toml");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let warnings = case.good().warnings;
        warnings.into_iter().find(|warning| warning.starts_with("the settings file"))
    };
    let secrets = [
        "[gitea]\napi_token = \"canary\"\n".to_owned(),
        format!(
            "[[enrollment.tokens]]\nname = \"a\"\ntoken = \"{}\"\n",
            ENROLLMENT.replace("canary", "other")
        ),
        "[[gitea.scopes]]\nscope = \"org:a\"\nregistration_token = \"canary-a\"\n".to_owned(),
    ];
    for text in &secrets {
        for (mode, may) in [(0o644, "read"), (0o666, "read and changed"), (0o602, "changed")] {
            let warning = with(text, mode).expect(text);
            assert!(warning.contains(&format!("can be {may} by every user")), "{warning}");
            assert!(warning.contains("chmod o-rwx /"), "{warning}");
            assert!(!warning.contains("canary"), "{warning}");
        }
        assert_eq!(with(text, 0o640), None);
    }
    assert_eq!(with("[log]\nlevel = \"info\"\n", 0o644), None, "it holds none");
}

#[test]
fn the_enrollment_token_is_long_visible_and_the_brokers_own() {
    const NAME: &str = "RUNNER_BROKER__ENROLLMENT__TOKEN";
    const ORIGIN: &str = "enrollment.token (variable RUNNER_BROKER__ENROLLMENT__TOKEN):";
    let spaced = format!("{ENROLLMENT} x");
    for token in
        ["canary-of-31-characters-0123456", &spaced, "canary-\u{e9}-0123456789-0123456789-01"]
    {
        Case::minimal().env(NAME, token).complains(&format!(
            "{ORIGIN} is not 32 or more visible ASCII characters: make a new one with openssl rand \
             -hex 32"
        ));
    }
    let same = format!(
        "{ORIGIN} is the same as gitea.registration_token, which runners must never see: make a new \
         one with openssl rand -hex 32"
    );
    let case = Case::minimal().env("GITEA_RUNNER_REGISTRATION_TOKEN", ENROLLMENT);
    case.complains(&same);
    let file = case.file("token", ENROLLMENT);
    case.env(NAME, "")
        .env("RUNNER_BROKER__ENROLLMENT__TOKEN_FILE", &file)
        .complains(&same.replace("token (", "token_file (").replace("TOKEN)", "TOKEN_FILE)"));
}

#[test]
fn the_admin_token_is_as_strong_and_comes_by_file_too() {
    const NAME: &str = "RUNNER_BROKER__ADMIN__TOKEN_FILE";
    const ADMIN: &str = "canary-of-admin-0123456789-0123456789";
    let case = Case::minimal();
    let (good, short) = (case.file("admin", ADMIN), case.file("short", "canary\n"));
    let case = case.env(NAME, &good);
    assert_eq!(case.good().settings.admin.token.unwrap().expose_secret(), ADMIN);
    case.env(NAME, &short).complains(
        "admin.token_file (variable RUNNER_BROKER__ADMIN__TOKEN_FILE): is not 32 or more visible \
         ASCII characters: make a new one with openssl rand -hex 32",
    );
    Case::minimal().set("admin.token", "canary").complains(
        "admin.token (flag --set): a secret in an argument can be read by every user: give a file \
         with admin.token_file",
    );
}

#[test]
fn no_secret_of_the_broker_is_another_one_too() {
    const MAKE: &str = "make a new one with openssl rand -hex 32";
    const TOKEN: &str = "enrollment.tokens[a].token (file DIR/config.toml)";
    const ENROLL: &str = "enrollment.token (variable RUNNER_BROKER__ENROLLMENT__TOKEN)";
    let same = format!("{ENROLLMENT}-of-all");
    let case = Case::minimal()
        .env("GITEA_API_TOKEN", &same)
        .env("RUNNER_BROKER__ADMIN__TOKEN", &same)
        .env("RUNNER_BROKER__ENROLLMENT__TOKEN", &same)
        .toml(&format!("[[enrollment.tokens]]\nname = \"a\"\ntoken = \"{same}\"\n"));
    let is = format!("is the same as gitea.api_token, which runners must never see: {MAKE}");
    let admin = format!("admin.token (variable RUNNER_BROKER__ADMIN__TOKEN): {is}");
    assert_eq!(case.bad(), [admin, format!("{ENROLL}: {is}"), format!("{TOKEN}: {is}")]);

    let case = case.env("GITEA_API_TOKEN", "");
    let is = format!("is the same as admin.token, which runners must never see: {MAKE}");
    assert_eq!(case.bad(), [format!("{ENROLL}: {is}"), format!("{TOKEN}: {is}")]);

    let case = case.env("RUNNER_BROKER__ADMIN__TOKEN", "");
    case.complains(&format!("{TOKEN}: is the same as enrollment.token: {MAKE}"));

    // Gitea's tokens are Gitea's to choose.
    Case::minimal().env("GITEA_API_TOKEN", REGISTRATION).good();
}

#[test]
fn what_is_wrong_with_the_rest_of_admin_does_not_hide_the_socket() {
    let case = Case::empty()
        .set("admin.socket", "/run/broker.sock")
        .set("admin.token_file", "/nowhere/admin")
        .set("admin.user_header", "Cookie")
        .set("listen.runners", "x")
        .toml("[[enrollment.tokens]]\ntoken = \"x\"\n");
    let (admin, problems) = load_admin(&case.sources());
    assert_eq!(admin.socket.to_str(), Some("/run/broker.sock"));
    assert!(admin.token.is_none());
    let keys: Vec<_> = problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["admin.token_file", "admin.user_header"]);
}
