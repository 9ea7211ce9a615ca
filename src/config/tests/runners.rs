//! `[[runners]]`

use super::super::runners::FIELDS;
use super::Case;

/// With an address for their files.
fn case() -> Case {
    Case::minimal().set("listen.public_url", "http://broker:8080")
}

/// One good table, and `more` in it.
fn declaring(more: &str) -> Case {
    case().toml(&format!("[[runners]]\nname = \"b\"\n{more}\n"))
}

/// What is wrong, without what is the same in each line.
#[track_caller]
fn told(case: &Case) -> Vec<String> {
    case.bad().into_iter().map(|line| line.replace(FILE, "")).collect()
}

const FILE: &str = " (file DIR/config.toml)";

#[test]
fn a_table_is_a_runner_with_labels_in_full_form() {
    let loaded = case()
        .toml(
            "[labels]\nmetal = \"host\"\n\"ubuntu-22.04\" = \"docker://node:22\"\n\
             [[runners]]\nname = \"builder-1\"\n\
             labels = [\"ubuntu-latest:docker://node:20\", \"metal\", \"ubuntu-22.04\"]\n\
             [[runners]]\nlabels = [\"metal:docker:x\"]\nname = \"2.b\"\n",
        )
        .good();
    let [first, second] = &loaded.settings.runners[..] else { panic!("two runners") };
    assert_eq!(first.name, "builder-1");
    assert_eq!(
        first.labels,
        ["ubuntu-latest:docker://node:20", "metal:host", "ubuntu-22.04:docker://node:22"]
    );
    assert_eq!(first.bare_labels(), ["ubuntu-latest", "metal", "ubuntu-22.04"]);
    assert_eq!((second.name.as_str(), &second.labels[..]), ("2.b", &["metal:docker:x".into()][..]));
    let used = loaded.used.iter().filter(|used| used.key.starts_with("runners["));
    assert_eq!(
        used.map(|used| (used.key.as_str(), used.value.as_str())).collect::<Vec<_>>(),
        [
            ("runners[builder-1].labels", "ubuntu-latest:docker://node:20,metal,ubuntu-22.04"),
            ("runners[2.b].labels", "metal:docker:x"),
        ]
    );
}

#[test]
fn no_token_is_needed_beside_them() {
    let case = declaring("labels = [\"a:host\"]").env("RUNNER_BROKER__ENROLLMENT__TOKEN", "");
    let settings = case.good().settings;
    assert!(settings.enrollment.token.is_none());
    assert_eq!(settings.runners.len(), 1);
}

#[test]
fn each_field_is_checked() {
    for (line, message) in [
        ("", "labels (not set): give the labels in brackets, for example"),
        ("labels = \"a:host\"", "labels: \"a:host\" is no list: put it in brackets"),
        ("labels = []", "labels: is empty, so that the runner would get no job: give a label"),
        ("labels = [1]", "labels: is no text: put it in quotes"),
        (
            "labels = [\"a\"]",
            "labels: \"a\" does not say where jobs run: give \"a:docker://node:20\"",
        ),
        ("labels = [\"a:node:20\"]", "labels: \"node:20\" does not say where jobs run: give host"),
        (
            "labels = [\"a b:host\"]",
            "labels: \"a b:host\" is no label: leave out commas and spaces",
        ),
        ("labels = [\":host\"]", "labels: \":host\" is no label"),
        ("labels = [\"a:host\", \"a:docker:x\"]", "labels: \"a\" is there twice: leave one"),
        ("labels = [\"rb-intent-1:host\"]", "labels: labels that begin with rb-intent- are"),
        ("labels = [\"a:host\"]\nlabel = 1", "label: is unknown: did you mean labels?"),
        ("labels = [\"a:host\"]\nephemeral = true", "ephemeral: is unknown: remove it, or correct"),
    ] {
        let told = told(&declaring(line));
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with(&format!("runners[b].{message}")), "{line}: {}", told[0]);
    }
}

#[test]
fn a_form_that_is_wrong_in_labels_is_told_there() {
    let case = declaring("labels = [\"a\"]").toml("[labels]\na = \"node:20\"\n");
    let told = told(&case);
    assert!(told.len() == 1 && told[0].starts_with("labels.a: "), "{told:?}");
}

#[test]
fn names_are_needed_there_once_and_make_a_path() {
    const LABELS: &str = "labels = [\"a:host\"]\n";
    let tables: String =
        ["", "name = \"b\"", "name = \"b\"", "name = \"a b\"", "name = \"\"", "name = 7"]
            .map(|name| format!("[[runners]]\n{LABELS}{name}\n"))
            .concat();
    assert_eq!(
        told(&case().toml(&tables)),
        [
            "runners[1].name: is missing: give one, for example builder-1",
            "runners[3].name: \"b\" is the name of an earlier runner too: give another one",
            "runners[4].name: \"a b\" makes no file name, as credentials.path needs it: give at most \
             200 letters, digits and \"-_.\", no dot first, for example builder-1",
            "runners[5].name: is empty, too long or holds control characters: give a name, for \
             example builder-1",
            "runners[6].name: is no text: put it in quotes",
        ]
    );
    let any = format!("[[runners]]\n{LABELS}name = \"a b\"\n");
    case().toml(&any).set("credentials.path", "/runners/{uuid}/.runner").good();
}

#[test]
fn a_fixed_path_has_room_for_one() {
    const TWO: &str = "[[runners]]\nname = \"c\"\nlabels = [\"a:host\"]\n";
    let one = declaring("labels = [\"a:host\"]").set("credentials.path", "/data/.runner");
    one.good();
    one.toml(TWO).complains(&format!(
        "runners{FILE}: are 2, and credentials.path (/data/.runner) has room for one: put {{name}} into \
         that path, for example /runners/{{name}}/.runner"
    ));
}

#[test]
fn what_their_files_dial_is_known() {
    let case = || Case::minimal().toml("[[runners]]\nname = \"b\"\nlabels = [\"a:host\"]\n");
    let needed = "listen.public_url (not set): is needed for the files of [[runners]]: give the broker's \
                  address as runners know it, for example http://broker:8080, or set \
                  credentials.address";
    case().complains(needed);
    case().set("credentials.address", "gitea").good();
    case().set("credentials.address", "http://here:1").good();
    case().set("listen.runners", "127.0.0.1:8080").good();
    let sidecar = case().set("listen.runners", "127.0.0.1:8080");
    sidecar.set("credentials.address", "broker").complains(needed);
}

#[test]
fn other_shapes_are_told() {
    const TABLES: &str = "write [[runners]], in two brackets, before each runner's keys";
    for toml in ["[runners]\nname = \"b\"\n", "runners = \"b\""] {
        case().toml(toml).complains(&format!("runners{FILE}: is no list of tables: {TABLES}"));
    }
    case()
        .toml("runners = [\"b\"]\n")
        .complains(&format!("runners[1]{FILE}: is no table: {TABLES}"));
    case().toml("runners = []\n").good();
}

#[test]
fn only_the_file_can_hold_them() {
    const ONLY: &str =
        "only the settings file can hold these: write [[runners]] there, with a name and labels";
    for name in ["RUNNER_BROKER__RUNNERS", "RUNNER_BROKER__RUNNERS__0__NAME"] {
        let bad = case().env(name, "b").bad();
        assert_eq!(bad.len(), 1, "{bad:?}");
        assert!(bad[0].ends_with(&format!(" (variable {name}): {ONLY}")), "{}", bad[0]);
    }
    for key in ["runners", "runners[b].labels"] {
        case().set(key, "b").complains(&format!("{key} (flag --set): {ONLY}"));
    }
}

#[test]
fn the_example_shows_every_field() {
    let example = include_str!("../../../config/example.toml");
    let table = example.split_once("#[[runners]]").unwrap().1.split_once("\n[").unwrap().0;
    for field in FIELDS {
        assert!(table.contains(&format!("\n#{field} = ")), "{field}");
    }
}
