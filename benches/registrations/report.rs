//! The table, and the numbers behind it.

use std::path::Path;
use std::{fs, io};

use serde_json::json;

use crate::plot;
use crate::round::{Case, Round};

type Rounds<'a> = [(&'a Case, Vec<Round>)];

const MIB: f64 = (1 << 20) as f64;

/// The middle round of each case, by its time.
pub fn print(cases: &Rounds<'_>) {
    println!(
        "| | registered | failed | seconds | a second | wait p50 | p99 | longest | Gitea's CPU | broker's CPU | \
         of it the store | broker's memory |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    for (case, rounds) in cases {
        let round = middle(rounds);
        let wait = |part| shown(quantile(&round.waits, part), "s");
        let [cpu, store, memory] = match &round.broker {
            None => ["", "", ""].map(str::to_owned),
            Some(taken) => [
                format!("{:.2} s", taken.cpu),
                format!("{:.0} %", 100.0 * taken.store_cpu / taken.cpu),
                format!(
                    "{:.1} → {:.1} MiB",
                    taken.memory_before as f64 / MIB,
                    taken.memory_peak as f64 / MIB
                ),
            ],
        };
        println!(
            "| {} | {} | {} | {:.2} | {:.0} | {} | {} | {} | {:.2} s | {cpu} | {store} | {memory} |",
            case.name,
            round.registered(),
            round.failed,
            round.wall,
            round.registered() as f64 / round.wall,
            wait(0.5),
            wait(0.99),
            wait(1.0),
            round.gitea_cpu,
        );
    }
}

/// `registrations.json` with every round, and `registrations.svg`.
pub fn write(folder: &Path, runners: usize, cases: &Rounds<'_>) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let of_round = |round: &Round| {
        let broker = round.broker.as_ref().map(|taken| {
            json!({
                "cpu_seconds": taken.cpu,
                "store_cpu_seconds": taken.store_cpu,
                "memory_before_bytes": taken.memory_before,
                "memory_peak_bytes": taken.memory_peak,
            })
        });
        let waits = [0.5, 0.9, 0.99, 1.0].map(|part| quantile(&round.waits, part));
        json!({
            "registered": round.registered(),
            "failed": round.failed,
            "first_error": round.first_error,
            "seconds": round.wall,
            "wait_p50_p90_p99_max_seconds": waits,
            "gitea_cpu_seconds": round.gitea_cpu,
            "broker": broker,
        })
    };
    let of_case = |(case, rounds): &(&Case, Vec<Round>)| json!({ "case": case.name, "rounds": rounds.iter().map(of_round).collect::<Vec<_>>() });
    let all = json!({ "runners": runners, "cases": cases.iter().map(of_case).collect::<Vec<_>>() });
    fs::write(folder.join("registrations.json"), format!("{all:#}\n"))?;
    let lines: Vec<_> =
        cases.iter().map(|(case, rounds)| (case.name, middle(rounds).waits.as_slice())).collect();
    plot::write(&folder.join("registrations.svg"), &lines).map_err(io::Error::other)
}

fn middle(rounds: &[Round]) -> &Round {
    let mut rounds: Vec<_> = rounds.iter().collect();
    rounds.sort_unstable_by(|one, other| one.wall.total_cmp(&other.wall));
    rounds[(rounds.len() - 1) / 2]
}

/// The value that this part of all values does not exceed; none where there are none.
fn quantile(values: &[f64], part: f64) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_unstable_by(f64::total_cmp);
    let rank = (part * values.len() as f64).ceil() as usize;
    values.get(rank.max(1) - 1).copied()
}

fn shown(value: Option<f64>, unit: &str) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{value:.2} {unit}"))
}
