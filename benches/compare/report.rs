//! What was measured, as a table for people and as numbers for programs.

use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use serde::Serialize;

use super::kit::stats::median;
use super::proxies::Proxy;
use super::rounds::{Bench, Body, CONNECTIONS, IDLE, Latency, Memory, RATES, Requests};

const MIB: f64 = 1024.0 * 1024.0;

/// All that was measured.
#[derive(Serialize)]
pub(crate) struct Report {
    rounds: u32,
    seconds: f64,
    versions: Vec<(&'static str, String)>,
    pub(crate) requests: Vec<Requests>,
    pub(crate) latencies: Vec<Latency>,
    pub(crate) memory: Vec<Memory>,
    pub(crate) bodies: Vec<Body>,
}

impl Report {
    /// Nothing yet.
    pub(crate) fn new(bench: &Bench, rounds: u32, time: Duration) -> Self {
        Self {
            rounds,
            seconds: time.as_secs_f64(),
            versions: bench.proxies.iter().map(|proxy| (proxy.name(), proxy.version())).collect(),
            requests: Vec::new(),
            latencies: Vec::new(),
            memory: Vec::new(),
            bodies: Vec::new(),
        }
    }

    /// Tables in Markdown. Each figure is the median of all rounds, but for the latencies, which are of all
    /// requests of all rounds.
    pub(crate) fn print(&self) {
        let versions: Vec<_> =
            self.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        println!("{}; {} rounds of {} s\n", versions.join(", "), self.rounds, self.seconds);
        for tls in [false, true] {
            let of_this = || self.requests.iter().filter(move |one| one.tls == tls);
            if of_this().next().is_none() {
                continue;
            }
            let by = if tls { "by TLS" } else { "in plain" };
            println!("Polls {by}: CPU-s for a million (user + system), and how many a second\n");
            print_head(CONNECTIONS.iter().flat_map(|n| [format!("{n} conn."), "a second".into()]));
            for target in names(of_this().map(|one| one.target)) {
                let cells = CONNECTIONS.iter().flat_map(|connections| {
                    let rounds = || {
                        of_this().filter(move |one| {
                            one.target == target && one.connections == *connections
                        })
                    };
                    let million = |part: fn(&Requests) -> f64| {
                        median(rounds().map(|one| part(one) / one.requests as f64 * 1e6).collect())
                    };
                    let user = million(|one| one.user_seconds);
                    let system = million(|one| one.system_seconds);
                    let cpu = million(|one| one.user_seconds + one.system_seconds);
                    let rate =
                        median(rounds().map(|one| one.requests as f64 / one.seconds).collect());
                    let cpu = match cpu {
                        0.0 => String::new(),
                        cpu => format!("{cpu:.1} ({user:.1} + {system:.1})"),
                    };
                    [cpu, format!("{rate:.0}")]
                });
                print_row(target, cells);
            }
            println!();
        }
        if !self.latencies.is_empty() {
            println!("Latency added to the direct one, in ms: p50, p99, p99.9\n");
            print_head(RATES.iter().map(|rate| format!("{rate} a second")));
            for target in names(self.latencies.iter().map(|one| one.target)) {
                let of = |name: &str, rate| {
                    self.latencies.iter().find(|one| one.target == name && one.rate == rate)
                };
                let cells = RATES.iter().map(|&rate| {
                    let Some(one) = of(target, rate) else { return String::new() };
                    let direct = of("direct", rate).filter(|_| self.is_proxy(target));
                    let added =
                        |part: fn(&Latency) -> f64| (part(one) - direct.map_or(0.0, part)) * 1e3;
                    format!(
                        "{:.3}, {:.3}, {:.3}",
                        added(|one| one.p50_seconds),
                        added(|one| one.p99_seconds),
                        added(|one| one.p999_seconds)
                    )
                });
                let whole = if self.is_proxy(target) { "" } else { " (whole)" };
                print_row(&format!("{target}{whole}"), cells);
            }
            println!();
        }
        if !self.memory.is_empty() {
            println!("Memory (RSS) with idle connections by TLS, in MiB\n");
            print_head(IDLE.iter().map(ToString::to_string));
            for target in names(self.memory.iter().map(|one| one.target)) {
                let cells = IDLE.iter().map(|connections| {
                    let rounds = self
                        .memory
                        .iter()
                        .filter(|one| one.target == target && one.connections == *connections);
                    format!("{:.1}", median(rounds.map(|one| one.bytes as f64 / MIB).collect()))
                });
                print_row(target, cells);
            }
            println!();
        }
        if !self.bodies.is_empty() {
            println!("A body of 1 GiB: CPU-s (user + system), s, growth of memory in MiB\n");
            print_head(["up", "down"].map(str::to_owned).into_iter());
            for target in names(self.bodies.iter().map(|one| one.target)) {
                let cells = [true, false].into_iter().map(|upload| {
                    let of = |part: fn(&Body) -> f64| {
                        let rounds = self
                            .bodies
                            .iter()
                            .filter(|one| one.target == target && one.upload == upload);
                        median(rounds.map(part).collect())
                    };
                    format!(
                        "{:.2} ({:.2} + {:.2}), {:.2}, {:.1}",
                        of(|one| one.user_seconds + one.system_seconds),
                        of(|one| one.user_seconds),
                        of(|one| one.system_seconds),
                        of(|one| one.seconds),
                        of(|one| one.memory_growth_bytes as f64 / MIB)
                    )
                });
                print_row(target, cells);
            }
        }
    }

    fn is_proxy(&self, name: &str) -> bool {
        Proxy::ALL.iter().any(|proxy| proxy.name() == name)
    }

    /// Raw numbers and plots.
    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let file = folder.join("compare.json");
        fs::write(&file, serde_json::to_string_pretty(self)? + "\n")
    }
}

/// Each once, in the order in which they came first.
fn names(all: impl Iterator<Item = &'static str>) -> Vec<&'static str> {
    let mut names = Vec::new();
    for name in all {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn print_head(columns: impl Iterator<Item = String>) {
    let columns: Vec<_> = columns.collect();
    println!("| | {} |", columns.join(" | "));
    println!("|---|{}", "---:|".repeat(columns.len()));
}

fn print_row(name: &str, cells: impl Iterator<Item = String>) {
    println!("| {name} | {} |", cells.collect::<Vec<_>>().join(" | "));
}
