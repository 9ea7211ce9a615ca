//! One case: who answers, what is between, and what one round of it took.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use runner_broker::sandbox::runner::{RegisterOptions, StandInRunner};
use tokio::sync::{Barrier, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::broker::{Broker, ENROLLMENT_TOKEN};
use crate::gitea::Gitea;
use crate::kit::usage;
use crate::stand_in::StandIn;

/// No runner waits longer: the real one would, for ever.
const LONGEST: Duration = Duration::from_secs(600);
/// As many as the broker asks at a time.
const AT_ONCE: usize = 16;
/// A folder in memory, where the system has one.
const MEMORY: &str = "/dev/shm";

/// What is between the runners and Gitea.
#[derive(Clone)]
enum Way {
    Straight,
    /// Straight, so many at a time.
    InTurn(usize),
    /// The broker, with its store and its files in a folder here.
    Broker(PathBuf),
}

/// What is measured.
pub struct Case {
    pub name: &'static str,
    real: bool,
    way: Way,
}

/// What one round of it took.
pub struct Round {
    /// Seconds from the start of all to each one's registration.
    pub waits: Vec<f64>,
    pub failed: usize,
    pub first_error: Option<String>,
    /// Seconds until the last had its answer.
    pub wall: f64,
    /// Seconds of CPU of Gitea.
    pub gitea_cpu: f64,
    /// What the broker took, where there was one.
    pub broker: Option<Taken>,
}

/// What the broker took.
pub struct Taken {
    /// Seconds of CPU.
    pub cpu: f64,
    /// Those of them that the thread of the store took.
    pub store_cpu: f64,
    /// Bytes before the first runner came.
    pub memory_before: u64,
    /// The most that it had.
    pub memory_peak: u64,
}

impl Round {
    pub fn registered(&self) -> usize {
        self.waits.len()
    }
}

impl Case {
    pub fn stand_in_straight() -> Self {
        Self { name: "stand-in, straight", real: false, way: Way::Straight }
    }

    pub fn stand_in_with_broker() -> Self {
        let way = Way::Broker(std::env::temp_dir());
        Self { name: "stand-in, broker", real: false, way }
    }

    /// The difference to the case before is what waiting for the disk costs.
    pub fn stand_in_with_store_in_memory() -> Option<Self> {
        let memory = Path::new(MEMORY);
        let way = Way::Broker(memory.to_owned());
        memory.is_dir().then_some(Self {
            name: "stand-in, broker, all in memory",
            real: false,
            way,
        })
    }

    pub fn gitea_straight() -> Self {
        Self { name: "Gitea, straight", real: true, way: Way::Straight }
    }

    pub fn gitea_in_turn() -> Self {
        Self { name: "Gitea, straight, 16 at a time", real: true, way: Way::InTurn(AT_ONCE) }
    }

    pub fn gitea_with_broker() -> Self {
        Self { name: "Gitea, broker", real: true, way: Way::Broker(std::env::temp_dir()) }
    }

    /// Runs it once, with a Gitea of its own.
    pub fn run(&self, runners: usize) -> Round {
        if self.real {
            let gitea = Gitea::start("");
            let pid = gitea.process.as_ref().expect("it is up").pid();
            self.through(&gitea.url, &gitea.registration_token(), pid, runners)
        } else {
            let gitea = StandIn::start();
            self.through(&gitea.url, &gitea.token, gitea.pid(), runners)
        }
    }

    fn through(&self, gitea: &str, token: &str, gitea_pid: u32, runners: usize) -> Round {
        match &self.way {
            Way::Straight => stampede(gitea, token, runners, runners, gitea_pid, None),
            Way::InTurn(at_once) => stampede(gitea, token, runners, *at_once, gitea_pid, None),
            Way::Broker(place) => {
                let broker = Broker::start(gitea, token, place);
                let pid = Some(broker.pid());
                stampede(&broker.url, ENROLLMENT_TOKEN, runners, runners, gitea_pid, pid)
            }
        }
    }
}

/// All come at once; each asks whether anybody is there and registers, as the real one does.
fn stampede(
    url: &str,
    token: &str,
    runners: usize,
    at_once: usize,
    gitea: u32,
    broker: Option<u32>,
) -> Round {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (start, slots) =
            (Arc::new(Barrier::new(runners + 1)), Arc::new(Semaphore::new(at_once)));
        let mut coming = JoinSet::new();
        for number in 0..runners {
            let program = StandInRunner::new(url);
            let options = RegisterOptions::new(token.into(), &format!("runner-{number}"));
            let (start, slots) = (Arc::clone(&start), Arc::clone(&slots));
            coming.spawn(async move {
                start.wait().await;
                let begun = Instant::now();
                let _slot = slots.acquire().await.expect("it is never closed");
                let joined = async {
                    program.ping(&options.name).await?;
                    program.register(&options).await
                };
                match timeout(LONGEST, joined).await {
                    Ok(Ok(_)) => Ok(begun.elapsed().as_secs_f64()),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(_) => Err(format!("no answer in {LONGEST:?}")),
                }
            });
        }
        let gitea_before = cpu(gitea);
        let before = broker.map(Before::of);
        start.wait().await;
        let begun = Instant::now();
        let mut round = Round {
            waits: Vec::new(),
            failed: 0,
            first_error: None,
            wall: 0.0,
            gitea_cpu: 0.0,
            broker: None,
        };
        while let Some(came) = coming.join_next().await {
            match came.expect("no runner panics") {
                Ok(wait) => round.waits.push(wait),
                Err(error) => {
                    round.failed += 1;
                    round.first_error.get_or_insert(error);
                }
            }
        }
        round.wall = begun.elapsed().as_secs_f64();
        round.gitea_cpu = cpu(gitea) - gitea_before;
        round.broker = before.map(Before::taken);
        round
    })
}

/// What the broker had taken before.
struct Before {
    pid: u32,
    cpu: f64,
    store_cpu: f64,
    memory: u64,
}

impl Before {
    fn of(pid: u32) -> Self {
        Self {
            pid,
            cpu: cpu(pid),
            store_cpu: store_cpu(pid),
            memory: usage::memory(pid).expect("it runs"),
        }
    }

    fn taken(self) -> Taken {
        Taken {
            cpu: cpu(self.pid) - self.cpu,
            store_cpu: store_cpu(self.pid) - self.store_cpu,
            memory_before: self.memory,
            memory_peak: usage::peak_memory(self.pid).expect("it runs"),
        }
    }
}

/// Seconds of a process and of those of its children that have ended.
fn cpu(pid: u32) -> f64 {
    (usage::cpu(pid) + usage::cpu_of_ended_children(pid)).total()
}

/// Those of the broker's store, by the name of its thread.
fn store_cpu(pid: u32) -> f64 {
    usage::cpu_of_threads(pid, "store").as_secs_f64()
}
