//! Runners that come, go, fall silent and speak again in any order: no two of them share an identity.

use std::collections::BTreeSet;
use std::time::Duration;

use runner_broker::broker::Reason;
use runner_broker::sandbox::runner::Runner;

use crate::register::join;
use crate::revival::{all_settled, live_of, take_for_gone, work};
use crate::support::{Broker, Site, gitea};

/// What a runner that was registered did last.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Now {
    Up,
    /// It was silent for too long, or the broker ended.
    TakenForGone,
    Left,
}

/// Numbers that look random and are the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: usize) -> usize {
        for shift in [13, -7, 17_i32] {
            let moved = match shift > 0 {
                true => self.0 << shift,
                false => self.0 >> -shift,
            };
            self.0 ^= moved;
        }
        usize::try_from(self.0 >> 33).unwrap() % sides
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_no_two_runners_share_an_identity() {
    for seed in 1..=6 {
        for api_token in [false, true] {
            schedule(seed, api_token).await;
        }
    }
}

async fn schedule(seed: u64, api_token: bool) {
    let gitea = gitea();
    let mut site = Site::new(&gitea).set("shutdown.deregister", "none");
    if !api_token {
        site = site.api_token(None);
    }
    let mut broker = Broker::start(&site).await;
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut runners: Vec<(Runner, Now)> = Vec::new();
    let mut steps = Vec::new();
    for step in 0..40 {
        let one = dice.below(runners.len().max(1));
        let now = runners.get(one).map(|(_, now)| *now);
        let what = dice.below(12);
        steps.push((what, one, now));
        match (what, now) {
            (0..=2, _) | (_, None) => {
                let runner = join(&broker, &format!("r{step}")).await.unwrap();
                runner.declare(&["host"]).await.unwrap();
                runners.push((runner, Now::Up));
            }
            (3..=4, Some(_)) => {
                runners[one].0.deregister().await.unwrap();
                runners[one].1 = Now::Left;
            }
            (5..=7, Some(Now::Up)) => {
                let reason = [Reason::Lease, Reason::Shutdown][dice.below(2)];
                // The broker may have been away when it last spoke: Gitea must not show it as online.
                let id = live_of(&broker, &runners[one].0).unwrap().id();
                gitea.silence_runner(id, Duration::from_secs(120));
                take_for_gone(&broker, &runners[one].0, reason).await;
                runners[one].1 = Now::TakenForGone;
            }
            (5..=10, Some(now)) => {
                let spoke = runners[one].0.fetch_task(0).await;
                assert_eq!(spoke.is_err(), now == Now::Left, "{spoke:?} {seed} {steps:?}");
                if now != Now::Left {
                    runners[one].1 = Now::Up;
                }
            }
            _ => {
                broker.stop().await;
                broker = Broker::start(&site).await;
                for (runner, _) in &mut runners {
                    *runner = runner.moved_to(&broker.url);
                }
            }
        }
        let all = broker.lifecycle.roster.all();
        let ids: BTreeSet<_> = all.iter().map(|live| live.id()).collect();
        assert_eq!(ids.len(), all.len(), "{seed} {steps:?}");
        let rows: BTreeSet<_> = gitea.runners().iter().map(|runner| runner.id).collect();
        assert_eq!(ids, rows, "{seed} {steps:?}");
        let up: BTreeSet<_> = runners
            .iter()
            .filter(|(_, now)| *now == Now::Up)
            .map(|(runner, _)| live_of(&broker, runner).unwrap().id())
            .collect();
        let expected = runners.iter().filter(|(_, now)| *now == Now::Up).count();
        assert_eq!(up.len(), expected, "{seed} {steps:?}");
    }
    for (runner, now) in &runners {
        match now {
            Now::Left => drop(runner.fetch_task(0).await.unwrap_err()),
            Now::Up | Now::TakenForGone => {
                let row = work(&gitea, runner).await;
                assert_eq!(row, live_of(&broker, runner).unwrap().id(), "{seed} {steps:?}");
            }
        }
    }
    all_settled(&gitea, &broker).await;
}
