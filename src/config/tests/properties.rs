//! What holds for all input: no panic, no secret told, no secret changed.

use std::fmt::Debug;

use proptest::prelude::*;
use secrecy::ExposeSecret;

use super::super::tokens::FIELDS;
use super::super::{Loaded, Problems, keys, load_admin};
use super::{Case, ENROLLMENT, REGISTRATION};

/// No secret is in anything that can be shown.
fn assert_hidden(result: &Result<Loaded, Problems>, canary: &str) {
    let hidden = |shown: &dyn Debug| !format!("{shown:?}{shown:#?}").contains(canary);
    match result {
        Ok(loaded) => assert!(hidden(loaded)),
        Err(problems) => assert!(hidden(problems) && !problems.to_string().contains(canary)),
    }
}

/// Text that is almost a settings file.
fn almost_toml() -> impl Strategy<Value = String> {
    let key = proptest::sample::select(keys::KEYS);
    let value = prop_oneof![
        any::<String>(),
        "[-+0-9a-fxeT:._]{0,12}",
        any::<String>().prop_map(|text| format!("{text:?}")),
        "(true|\\[1\\]|\\{ a = 1 \\}|'x'|\"sqlite:/x\"|\"http://x\")",
    ];
    let line = (key, value).prop_map(|(key, value)| format!("{key} = {value}\n"));
    prop_oneof![
        any::<String>(),
        "[\\[\\]a-z.\"'=0-9 \n{}#-]{0,80}",
        proptest::collection::vec(line, 0..6).prop_map(|lines| lines.concat()),
    ]
}

/// As TOML and JSON write a text.
fn quote(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

const DECLARED: &str = "canary-of-declared-0123456789abcdef";
const ADMIN: &str = "canary-of-admin-0123456789abcdef0123";

/// Tables of tokens, most of them wrong, with the secret where one belongs.
fn almost_tables() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        "-?[0-9]{1,12}",
        any::<String>().prop_map(|text| quote(&text)),
        "(true|0|7|\\[\\]|\\[1, 'x'\\]|\\{ a = 1 \\}|'single_use'|'org:x'|'10.0.0.1/8'|2020-01-01T00:00:00Z)",
    ];
    // All but those that are added below.
    let field = proptest::sample::select(&FIELDS[3..]).prop_map(str::to_owned);
    let line = (prop_oneof![4 => field, 1 => "x[a-z_]{0,9}"], value)
        .prop_map(|(field, value)| format!("{field} = {value}\n"));
    let secret = prop_oneof![
        Just(format!("token = '{DECLARED}'\n")),
        Just(format!("token = ['{DECLARED}']\n")),
        Just(format!("token.a = '{DECLARED}'\n")),
        Just(format!("token_file = '{DECLARED}'\n")),
    ];
    let name = prop_oneof![
        Just("name = 'ci'\n".to_owned()),
        Just("labels = ['a', 'a:b']\n".to_owned()),
        "name = '[a-zA-Z0-9._-]{0,8}'\n",
        Just(String::new())
    ];
    let head = "(\\[\\[enrollment.tokens\\]\\]|\\[\\[?runners\\]?\\]|\\[enrollment.tokens\\]|\\[\\[enrollment.token\\]\\])\n";
    let head = prop_oneof![4 => Just("[[enrollment.tokens]]\n".to_owned()), 1 => head];
    let lines = proptest::collection::vec(line, 0..3).prop_map(|lines| lines.concat());
    let table = (head, name, secret, lines)
        .prop_map(|(head, name, secret, lines)| head + &name + &secret + &lines);
    proptest::collection::vec(table, 1..4).prop_map(|tables| tables.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn no_file_and_no_environment_makes_it_panic_or_tell_secrets(
        toml in almost_toml(),
        names in proptest::collection::vec((proptest::sample::select(keys::KEYS), any::<String>()), 0..5),
        odd in "RUNNER_BROKER__[A-Z_.]{0,12}",
        value in any::<String>(),
    ) {
        let mut case = Case::minimal().toml(&toml).env(&odd, &value).set(&value, &odd);
        for (key, value) in names {
            // A path from nowhere may be a device that never ends.
            let value = if key.ends_with("_file") { value.replace('/', "") } else { value };
            case = case.env(&keys::variable(key), &value);
        }
        let result = case.load();
        assert_hidden(&result, ENROLLMENT);
        assert_hidden(&result, REGISTRATION);
        if let Err(problems) = result {
            prop_assert_eq!(problems.to_string().lines().count(), problems.0.len());
        }
    }

    #[test]
    fn no_table_makes_it_tell_the_secret_of_a_token(
        tables in almost_tables(),
        admin in proptest::sample::select(&["TOKEN", "TOKEN_FILE", "TOKENS"][..]),
    ) {
        let case = Case::minimal().toml(&tables).env(&format!("RUNNER_BROKER__ADMIN__{admin}"), ADMIN);
        let result = case.load();
        assert_hidden(&result, DECLARED);
        assert_hidden(&result, ADMIN);
        let shown = format!("{:?}", load_admin(&case.sources()));
        prop_assert!(!shown.contains(ADMIN), "{}", shown);
    }

    #[test]
    fn secrets_arrive_as_they_were_given(
        secret in prop_oneof![
            "[!-~]{33,48}", "0[0-9]{40}", "1e[0-9]{40}", "-?[0-9]{33,40}\\.[0-9]{3}",
            Just("true".to_owned() + &"#\"'\\".repeat(8)), "0x[0-9a-f]{32}", "(true|false|null){9}",
        ],
    ) {
        let quoted = quote(&secret);
        let case = Case::empty();
        let file = case.file("secret", &format!("{secret}\n"));
        let cases = [
            case.env("RUNNER_BROKER__ENROLLMENT__TOKEN_FILE", &file),
            Case::empty().toml(&format!("[enrollment]\ntoken = {quoted}\n")),
            Case::empty().env("RUNNER_BROKER__ENROLLMENT__TOKEN", &secret),
        ];
        for case in cases {
            let declared = case.file("declared", &format!("{secret}-of-ci"));
            let case = case
                .env("GITEA_INSTANCE_URL", "http://gitea")
                .env("RUNNER_BROKER__ADMIN__TOKEN", &format!("{secret}-of-admin"))
                .toml(&format!("[[enrollment.tokens]]\nname = \"file\"\ntoken_file = \"{declared}\"\n"))
                .toml(&format!("[[enrollment.tokens]]\nname = \"text\"\ntoken = {}\n", quote(&format!("-{secret}"))))
                .env("GITEA_RUNNER_REGISTRATION_TOKEN", &secret[1..])
                .env("GITEA_API_TOKEN", &secret[1..]);
            let loaded = case.good();
            assert_hidden(&Ok(loaded.clone()), &secret[1..]);
            let settings = loaded.settings;
            let enrollment = settings.enrollment.token.unwrap();
            prop_assert_eq!(enrollment.expose_secret(), &secret);
            prop_assert_eq!(settings.gitea.default.registration_token.as_ref().unwrap().expose_secret(), &secret[1..]);
            let admin = settings.admin.token.unwrap();
            prop_assert_eq!(admin.expose_secret(), &format!("{secret}-of-admin"));
            let [file, text] = &settings.enrollment.tokens[..] else { panic!("two are declared") };
            prop_assert_eq!(file.token.expose_secret(), &format!("{secret}-of-ci"));
            prop_assert_eq!(text.token.expose_secret(), &format!("-{secret}"));
            let api_token = settings.gitea.default.api_token.clone().unwrap();
            prop_assert_eq!(api_token.expose_secret(), &secret[1..]);
            // The same secret twice is refused, in words that are always the same.
            let twice = case.env("GITEA_RUNNER_REGISTRATION_TOKEN", &secret).load();
            prop_assert!(twice.is_err());
            assert_hidden(&twice, &secret[1..]);
        }
    }
}
