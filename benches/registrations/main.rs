//! `cargo bench --bench registrations [-- --runners N] [--rounds N] [--out DIR]`: what it takes until a cluster's
//! runners, which all start at once, are registered; with the broker and without it.
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
mod plot;
#[allow(dead_code, reason = "the end-to-end tests use the rest")]
#[path = "../../tests/e2e/process.rs"]
mod process;
mod report;
mod round;
mod stand_in;
mod usage;

use std::path::PathBuf;

use round::{Case, Round};

/// How a bench is run.
struct Args {
    runners: usize,
    rounds: usize,
    out: Option<PathBuf>,
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some(stand_in::ROLE) {
        stand_in::serve();
        return;
    }
    let args = arguments();
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
    for number in 1..=args.rounds {
        for (case, done) in &mut rounds {
            let round = case.run(args.runners);
            eprintln!(
                "Round {number} of {}, {}: {} of {} runners registered in {:.2} s.",
                args.rounds,
                case.name,
                round.registered(),
                args.runners,
                round.wall
            );
            if let Some(error) = &round.first_error {
                eprintln!("  The first that failed: {error}");
            }
            done.push(round);
        }
    }
    report::print(&rounds);
    if let Some(out) = args.out {
        report::write(&out, args.runners, &rounds).expect("the folder of --out can be written");
        eprintln!("Numbers and plot are in {}.", out.display());
    }
}

fn arguments() -> Args {
    let mut args = Args { runners: 1000, rounds: 3, out: None };
    let mut given = std::env::args().skip(1);
    while let Some(name) = given.next() {
        let mut value = || given.next().unwrap_or_else(|| panic!("{name} needs a value"));
        match name.as_str() {
            // What cargo adds.
            "--bench" => {}
            "--runners" => args.runners = value().parse().expect("--runners is a number"),
            "--rounds" => args.rounds = value().parse().expect("--rounds is a number"),
            "--out" => args.out = Some(value().into()),
            _ => panic!("{name} is not known: there are --runners N, --rounds N and --out DIR"),
        }
    }
    assert!(args.runners > 0 && args.rounds > 0, "there is nothing to measure");
    args
}

/// The program that this variable names, for the harness of the end-to-end tests.
fn binary(variable: &str) -> PathBuf {
    std::env::var_os(variable).map(PathBuf::from).unwrap_or_default()
}
