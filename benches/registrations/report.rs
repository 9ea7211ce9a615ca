//! The table, and the numbers behind it.

use serde_json::json;

use crate::kit::options::Options;
use crate::kit::plot::{Axis, Lines, Scale, Series};
use crate::kit::stats::quantile;
use crate::kit::table::Table;
use crate::round::{Case, Round};

type Rounds<'a> = [(&'a Case, Vec<Round>)];

const MIB: f64 = (1 << 20) as f64;

/// The middle round of each case, by its time.
pub fn print(cases: &Rounds<'_>) {
    let mut table = Table::new([
        "",
        "registered",
        "failed",
        "seconds",
        "a second",
        "wait p50",
        "p99",
        "longest",
        "Gitea's CPU",
        "broker's CPU",
        "of it the store",
        "broker's memory",
    ]);
    for (case, rounds) in cases {
        let round = middle(rounds);
        let wait =
            |part| waited(round, part).map_or_else(|| "-".into(), |wait| format!("{wait:.2} s"));
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
        table.row([
            case.name.to_owned(),
            round.registered().to_string(),
            round.failed.to_string(),
            format!("{:.2}", round.wall),
            format!("{:.0}", round.registered() as f64 / round.wall),
            wait(0.5),
            wait(0.99),
            wait(1.0),
            format!("{:.2} s", round.gitea_cpu),
            cpu,
            store,
            memory,
        ]);
    }
    print!("{table}");
}

/// `registrations.json` with every round, and `registrations.svg`.
pub fn write(options: &Options, runners: usize, cases: &Rounds<'_>) {
    let of_round = |round: &Round| {
        let broker = round.broker.as_ref().map(|taken| {
            json!({
                "cpu_seconds": taken.cpu,
                "store_cpu_seconds": taken.store_cpu,
                "memory_before_bytes": taken.memory_before,
                "memory_peak_bytes": taken.memory_peak,
            })
        });
        let waits = [0.5, 0.9, 0.99, 1.0].map(|part| waited(round, part));
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
    options.write("registrations.json", &format!("{all:#}\n"));
    options.with("registrations.svg", |file| {
        let plot = Lines {
            title: "Runners that start at once",
            x: Axis { label: "seconds", scale: Scale::Linear },
            y: Axis { label: "registered", scale: Scale::Linear },
            series: cases.iter().map(|(case, rounds)| line(case, middle(rounds))).collect(),
        };
        plot.write(file).expect("the plot can be drawn");
    });
}

/// How many are registered after so many seconds.
fn line(case: &Case, round: &Round) -> Series<'static> {
    let mut waits = round.waits.clone();
    waits.sort_unstable_by(f64::total_cmp);
    let points = std::iter::once(0.0).chain(waits).zip(0_u32..);
    Series { name: case.name, points: points.map(|(at, count)| (at, count.into())).collect() }
}

fn middle(rounds: &[Round]) -> &Round {
    let mut rounds: Vec<_> = rounds.iter().collect();
    rounds.sort_unstable_by(|one, other| one.wall.total_cmp(&other.wall));
    rounds[(rounds.len() - 1) / 2]
}

/// What this part of all runners did not wait longer than; none where none was registered.
fn waited(round: &Round, part: f64) -> Option<f64> {
    let mut waits = round.waits.clone();
    (!waits.is_empty()).then(|| quantile(&mut waits, part))
}
