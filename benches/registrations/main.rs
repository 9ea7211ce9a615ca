//! `cargo bench --bench registrations [-- --runners N] [--rounds N] [--quick] [--out DIR]`: what it takes until a
//! cluster's runners, which all start at once, are registered; with the broker and without it.
//!
//! The stand-in Gitea is a process of its own. A real one takes part where `GITEA_BIN` names it, set up as in
//! `tests/e2e`: `GITEA_STATIC_ROOT` and `GITEA_USER` mean the same here.

#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(missing_docs, unreachable_pub, reason = "a bench exports nothing")]

mod broker;
#[allow(dead_code, reason = "the end-to-end tests use the rest")]
#[path = "../../tests/e2e/gitea.rs"]
mod gitea;
#[allow(dead_code, reason = "the end-to-end tests use the rest")]
#[path = "../../tests/e2e/http.rs"]
mod http;
#[path = "../kit/mod.rs"]
mod kit;
#[allow(dead_code, reason = "the end-to-end tests use the rest")]
#[path = "../../tests/e2e/process.rs"]
mod process;
mod report;
mod round;
mod stand_in;

use std::path::PathBuf;

use kit::options::Options;
use round::{Case, Round};

fn main() {
    if std::env::args().nth(1).as_deref() == Some(stand_in::ROLE) {
        stand_in::serve();
        return;
    }
    let options = Options::read();
    let (runners, times) = numbers(&options);
    runner_broker::net::descriptors::raise_limit();
    let mut cases = vec![Case::stand_in_straight(), Case::stand_in_with_broker()];
    cases.extend(Case::stand_in_with_store_in_memory());
    let real = std::env::var_os("GITEA_BIN").is_some();
    if real {
        cases.extend([Case::gitea_straight(), Case::gitea_in_turn(), Case::gitea_with_broker()]);
    } else {
        eprintln!(
            "The part with a real Gitea is not run: set GITEA_BIN to the path of a gitea executable (and \
             GITEA_STATIC_ROOT to its source folder, where it was built without bindata)."
        );
    }
    let mut rounds: Vec<(&Case, Vec<Round>)> =
        cases.iter().map(|case| (case, Vec::new())).collect();
    for number in 1..=times {
        for (case, done) in &mut rounds {
            let round = case.run(runners);
            eprintln!(
                "Round {number} of {times}, {}: {} of {runners} runners registered in {:.2} s.",
                case.name,
                round.registered(),
                round.wall
            );
            if let Some(error) = &round.first_error {
                eprintln!("  The first that failed: {error}");
            }
            done.push(round);
        }
    }
    report::print(&rounds);
    report::write(&options, runners, &rounds);
}

/// How many runners, and how many rounds.
fn numbers(options: &Options) -> (usize, usize) {
    let (mut runners, mut rounds) = if options.quick { (100, 1) } else { (1000, 3) };
    let mut words = options.rest.iter();
    while let Some(word) = words.next() {
        let number = match word.as_str() {
            "--runners" => &mut runners,
            "--rounds" => &mut rounds,
            _ => panic!(
                "{word} is not known: there are --runners N, --rounds N, --quick and --out DIR"
            ),
        };
        let value = words.next().and_then(|value| value.parse().ok());
        *number = value.unwrap_or_else(|| panic!("{word} needs a number"));
    }
    assert!(runners > 0 && rounds > 0, "there is nothing to measure");
    (runners, rounds)
}

/// The program that this variable names, for the harness of the end-to-end tests.
fn binary(variable: &str) -> PathBuf {
    std::env::var_os(variable).map(PathBuf::from).unwrap_or_default()
}
