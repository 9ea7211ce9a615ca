//! What was measured: tables for people, plots, and numbers for programs.

use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use serde::Serialize;

use super::kit::plot::Bars;
use super::kit::stats::median;
use super::kit::table::Table;
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

/// One plot or table: a figure for each target in each group, where there is one.
struct Figures {
    title: &'static str,
    unit: &'static str,
    file: &'static str,
    groups: Vec<(String, Vec<Option<f64>>)>,
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
        let versions: Vec<_> = self
            .versions
            .iter()
            .map(|(name, version)| format!("{name} {version}").trim_end().to_owned())
            .collect();
        println!("{}; {} rounds of {} s\n", versions.join(", "), self.rounds, self.seconds);
        self.print_requests();
        self.print_latencies();
        self.print_memory();
        self.print_bodies();
    }

    fn print_requests(&self) {
        for (tls, by) in [(false, "in plain"), (true, "by TLS")] {
            let names =
                names(self.requests.iter().filter(|one| one.tls == tls).map(|one| one.target));
            if names.is_empty() {
                continue;
            }
            println!("Polls {by}: CPU-s for a million (user + system), and how many a second\n");
            let heads = CONNECTIONS.map(|count| [format!("{count} at once"), "a second".into()]);
            let mut table =
                Table::new([String::new()].into_iter().chain(heads.into_iter().flatten()));
            for name in names {
                let cells = CONNECTIONS.map(|count| {
                    let of = |part: fn(&Requests) -> f64| self.request(name, tls, count, part);
                    let user = of(|one| one.user_seconds / one.requests as f64 * 1e6);
                    let system = of(|one| one.system_seconds / one.requests as f64 * 1e6);
                    let cpu = of(Requests::cpu_of_a_million);
                    let cpu = match cpu {
                        Some(cpu) if cpu > 0.0 => {
                            let (user, system) = (user.unwrap_or(0.0), system.unwrap_or(0.0));
                            format!("{cpu:.1} ({user:.1} + {system:.1})")
                        }
                        _ => String::new(),
                    };
                    let rate = of(|one| one.requests as f64 / one.seconds).unwrap_or(0.0);
                    [cpu, format!("{rate:.0}")]
                });
                table.row([name.to_owned()].into_iter().chain(cells.into_iter().flatten()));
            }
            println!("{table}");
        }
    }

    fn print_latencies(&self) {
        if self.latencies.is_empty() {
            return;
        }
        println!(
            "Latency at a fixed rate, in ms: p50, p99, p99.9; of the proxies less the direct one\n"
        );
        let heads = RATES.map(|rate| format!("{rate} a second"));
        let mut table = Table::new([String::new()].into_iter().chain(heads));
        for name in names(self.latencies.iter().map(|one| one.target)) {
            let cells = RATES.map(|rate| {
                let parts: [fn(&Latency) -> f64; 3] =
                    [|one| one.p50_seconds, |one| one.p99_seconds, |one| one.p999_seconds];
                let added = |part| {
                    self.added(name, rate, part)
                        .map_or(String::new(), |s| format!("{:.3}", s * 1e3))
                };
                parts.map(added).join(", ")
            });
            table.row([name.to_owned()].into_iter().chain(cells));
        }
        println!("{table}");
    }

    fn print_memory(&self) {
        if self.memory.is_empty() {
            return;
        }
        println!("Memory (RSS) with idle connections by TLS, in MiB\n");
        let mut table =
            Table::new([String::new()].into_iter().chain(IDLE.map(|idle| idle.to_string())));
        for name in names(self.memory.iter().map(|one| one.target)) {
            let cells = IDLE.map(|idle| {
                self.memory_of(name, idle).map_or(String::new(), |mib| format!("{mib:.1}"))
            });
            table.row([name.to_owned()].into_iter().chain(cells));
        }
        println!("{table}");
    }

    fn print_bodies(&self) {
        if self.bodies.is_empty() {
            return;
        }
        println!("A body of 1 GiB: CPU-s (user + system), s, growth of memory in MiB\n");
        let mut table = Table::new(["", "up", "down"]);
        for name in names(self.bodies.iter().map(|one| one.target)) {
            let cells = [true, false].map(|upload| {
                let of = |part: fn(&Body) -> f64| self.body(name, upload, part).unwrap_or(0.0);
                format!(
                    "{:.2} ({:.2} + {:.2}), {:.2}, {:.1}",
                    of(|one| one.user_seconds + one.system_seconds),
                    of(|one| one.user_seconds),
                    of(|one| one.system_seconds),
                    of(|one| one.seconds),
                    of(|one| one.memory_growth_bytes as f64 / MIB)
                )
            });
            table.row([name.to_owned()].into_iter().chain(cells));
        }
        println!("{table}");
    }

    fn request(
        &self,
        name: &str,
        tls: bool,
        connections: usize,
        part: fn(&Requests) -> f64,
    ) -> Option<f64> {
        let rounds = self
            .requests
            .iter()
            .filter(|one| one.target == name && one.tls == tls && one.connections == connections);
        middle(rounds.map(part))
    }

    /// What a proxy adds to the time of the direct way; of others, their time.
    fn added(&self, name: &str, rate: u32, part: fn(&Latency) -> f64) -> Option<f64> {
        let of = |name: &str| {
            let mut all = self.latencies.iter();
            all.find(|one| one.target == name && one.rate == rate).map(part)
        };
        let is_proxy = Proxy::ALL.iter().any(|proxy| proxy.name() == name);
        let direct = of("direct").filter(|_| is_proxy).unwrap_or(0.0);
        of(name).map(|time| time - direct)
    }

    fn memory_of(&self, name: &str, connections: usize) -> Option<f64> {
        let rounds =
            self.memory.iter().filter(|one| one.target == name && one.connections == connections);
        middle(rounds.map(|one| one.bytes as f64 / MIB))
    }

    fn body(&self, name: &str, upload: bool, part: fn(&Body) -> f64) -> Option<f64> {
        let rounds = self.bodies.iter().filter(|one| one.target == name && one.upload == upload);
        middle(rounds.map(part))
    }

    /// Raw numbers and plots.
    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let file = folder.join("compare.json");
        fs::write(&file, serde_json::to_string_pretty(self)? + "\n")?;
        let names: Vec<_> = self.versions.iter().map(|(name, _)| *name).collect();
        for Figures { title, unit, file, groups } in self.figures(&names) {
            if groups.iter().all(|(_, figures)| figures.iter().all(Option::is_none)) {
                continue;
            }
            let groups = groups.iter().map(|(name, figures)| (name.as_str(), figures.clone()));
            let bars = Bars { title, label: unit, series: &names, groups: groups.collect() };
            let drawn = bars.write(&folder.join(file));
            drawn.map_err(|error| io::Error::other(error.to_string()))?;
        }
        Ok(())
    }

    fn figures(&self, names: &[&str]) -> [Figures; 4] {
        let of_all =
            |figure: &dyn Fn(&str) -> Option<f64>| names.iter().map(|n| figure(n)).collect();
        let ways = [(false, "plain"), (true, "TLS")];
        let requests = ways.into_iter().flat_map(|(tls, way)| {
            CONNECTIONS.map(|count| {
                let cpu = |name: &str| self.request(name, tls, count, Requests::cpu_of_a_million);
                (format!("{way}, {count} at once"), of_all(&cpu))
            })
        });
        let latencies = RATES.map(|rate| {
            let p99 = |name: &str| self.added(name, rate, |one| one.p99_seconds * 1e3);
            (format!("{rate} a second"), of_all(&p99))
        });
        let memory = IDLE.map(|idle| {
            (format!("{idle} connections"), of_all(&|name: &str| self.memory_of(name, idle)))
        });
        let bodies = [(true, "up"), (false, "down")].map(|(upload, way)| {
            let cpu = |one: &Body| one.user_seconds + one.system_seconds;
            (format!("1 GiB {way}"), of_all(&|name: &str| self.body(name, upload, cpu)))
        });
        [
            Figures {
                title: "CPU of a poll",
                unit: "CPU-seconds for a million",
                file: "compare-cpu.svg",
                groups: requests.collect(),
            },
            Figures {
                title: "Latency that is added (p99)",
                unit: "milliseconds",
                file: "compare-latency.svg",
                groups: latencies.into(),
            },
            Figures {
                title: "Memory with idle connections by TLS",
                unit: "MiB (RSS)",
                file: "compare-memory.svg",
                groups: memory.into(),
            },
            Figures {
                title: "CPU of large bodies",
                unit: "CPU-seconds",
                file: "compare-bodies.svg",
                groups: bodies.into(),
            },
        ]
    }
}

impl Requests {
    fn cpu_of_a_million(&self) -> f64 {
        (self.user_seconds + self.system_seconds) / self.requests as f64 * 1e6
    }
}

fn middle(rounds: impl Iterator<Item = f64>) -> Option<f64> {
    let rounds: Vec<_> = rounds.collect();
    (!rounds.is_empty()).then(|| median(rounds))
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
