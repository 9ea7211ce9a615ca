//! The scenes, in their order.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;

use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use super::{CAST, DemoError, JOB, LogLines, Stage, Story, WORK, samples};
use crate::broker::token::{Draft, Kind, Policy, State};
use crate::config::Scope;
use crate::connect::messages::TaskResult;
use crate::credential::RunnerFile;
use crate::lifecycle::By;
use crate::sandbox::gitea::{TaskState, random_hex};
use crate::sandbox::runner::{Daemon, RegisterOptions, Runner, StandInRunner};
use crate::shutdown::Signal;

impl Stage<'_> {
    pub(super) async fn turn_away<W: Write>(&self, story: &mut Story<W>) -> Result<(), DemoError> {
        story.step("A stranger is turned away").await?;
        let options = RegisterOptions::new(random_hex(32).into(), "stranger");
        let refused = StandInRunner::new(&self.url).register(&options).await.err();
        let said = refused.as_ref().map(|error| format!("{}: {}", error.code, error.message));
        story.say("A runner asks to register with a token that it made up. The broker answers:")?;
        story.show(said.as_deref().unwrap_or("(it was registered)"))?;
        story.claim(
            refused.is_some_and(|error| error.code == "unauthenticated")
                && self.registers().is_empty(),
            "The runner was refused, and Gitea did not hear of it.",
        )
    }

    pub(super) async fn join<W: Write>(
        &self,
        story: &mut Story<W>,
    ) -> Result<[Runner; 3], DemoError> {
        story.step("Three runners join").await?;
        story.say(
            "Each presents the enrollment token. The broker registers it with Gitea's own token and \
             hands back credentials for that one runner, also as the file that the runner starts from.",
        )?;
        let builder = self.join_one(CAST[0]).await?;
        let tester = self.join_one(CAST[1]).await?;
        let deployer = self.join_one(CAST[2]).await?;
        self.list(story)?;
        let registers = self.registers();
        let carry = |secret: &SecretString| {
            let secret = secret.expose_secret().as_bytes();
            registers.iter().filter(|body| body.windows(secret.len()).any(|w| w == secret)).count()
        };
        story.claim(
            [registers.len(), carry(&self.registration), carry(&self.enrollment)] == [3, 3, 0],
            "Gitea got its own token three times, and never the enrollment token.",
        )?;
        let uuids: HashSet<_> = self.gitea.runners().into_iter().map(|view| view.uuid).collect();
        story.claim(uuids.len() == 3, "Gitea lists three runners, each with its own identity.")?;

        story.step("A runner has its own credentials, and nothing more").await?;
        let path = self.runner_file("builder");
        let text = fs::read_to_string(&path)?;
        let file = RunnerFile::parse(text.as_bytes())?;
        story.say(&format!("This is {}; the token is hidden here.", path.display()))?;
        for line in text.replace(file.token.expose_secret(), "(hidden)").lines() {
            story.show(line)?;
        }
        let mode = fs::metadata(&path)?.permissions().mode() & 0o777;
        story.claim(mode == 0o600, "Only its owner can read it (mode 0600).")?;
        let secrets = [&self.registration, &self.enrollment].map(ExposeSecret::expose_secret);
        story.claim(
            !secrets.iter().any(|secret| text.contains(*secret)),
            "Neither the registration token nor the enrollment token is in it: a job that reads it \
             can add no runner.",
        )?;
        Ok([builder, tester, deployer])
    }

    /// Registers as the runner's `register` does, and starts from the file as its daemon does.
    async fn join_one(&self, (name, label, _): (&str, &str, &str)) -> Result<Runner, DemoError> {
        let program = StandInRunner::new(&self.url);
        program.ping(name).await?;
        let options = RegisterOptions {
            labels: vec![label.to_owned()],
            ..RegisterOptions::new(self.enrollment.clone(), name)
        };
        program.register(&options).await?;
        let file = fs::read_to_string(self.runner_file(name))?;
        let runner = Runner::from_runner_file(&file).map_err(io::Error::from)?;
        runner.declare(&[label]).await?;
        Ok(runner)
    }

    pub(super) async fn lend_a_token<W: Write>(
        &self,
        story: &mut Story<W>,
    ) -> Result<(), DemoError> {
        story.step("A token for one runner, and back again").await?;
        let by = By { actor: "demo".into(), peer: None };
        let draft = Draft {
            kind: Kind::SingleUse,
            description: "for the contractor".into(),
            policy: Policy { labels: vec!["host".into()], ..Policy::of_scope(Scope::Instance) },
        };
        let issued = self.lifecycle.create_token(draft, &by).await?;
        let id = issued.token.token.id;
        story.say(&format!(
            "An admin makes a second enrollment token, {id}: for a single runner, with the label host \
             and no other (`runner-broker token create --single-use --label host`). Three runners \
             present it:"
        ))?;
        let program = StandInRunner::new(&self.url);
        let asks = async |name: &str, label: &str| {
            let options = RegisterOptions {
                labels: vec![label.to_owned()],
                ..RegisterOptions::new(issued.secret.clone(), name)
            };
            program.register(&options).await.err().map(|error| error.message)
        };
        let said = [
            ("greedy", "gpu", asks("greedy", "gpu").await),
            ("first", "host", asks("first", "host").await),
            ("second", "host", asks("second", "host").await),
        ];
        for (name, label, refused) in &said {
            let answer = refused.as_deref().unwrap_or("registered");
            story.show(&format!("{name} [{label}]: {answer}"))?;
        }
        story.claim(
            matches!(&said, [(.., Some(_)), (.., None), (.., Some(_))])
                && self.lifecycle.token(&id)?.state == State::UsedUp,
            "One was admitted, and the token is used up.",
        )?;
        self.lifecycle.delete_token(&id, true, &by).await?;
        loop {
            let moved = self.lifecycle.next_move();
            if self.lifecycle.roster.len() == CAST.len() {
                break;
            }
            moved.await;
        }
        story.claim(
            self.gitea.runners().len() == CAST.len(),
            "The admin deletes the token with `--cascade`, and its runner is gone from Gitea.",
        )
    }

    pub(super) async fn run_job<W: Write>(
        &self,
        story: &mut Story<W>,
        builder: &Runner,
    ) -> Result<(), DemoError> {
        story.step("A job runs").await?;
        let (name, label, _) = CAST[0];
        let queued = self.gitea.queue_task(&[label]);
        story.say(&format!(
            "A push to acme/app queues task {queued} for the label {label}. {name} polls through the \
             broker, takes it, and reports line after line (a stand-in plays the job). Gitea's log:"
        ))?;
        let (task, _) = builder.fetch_task(0).await?;
        let Some(task) = task else {
            return Err(DemoError::Untrue(format!("{name} gets task {queued}.")));
        };
        builder.update_task(task.id, TaskResult::Unspecified).await?;
        let mut kept = 0;
        for (index, line) in JOB.iter().enumerate() {
            kept = builder.update_log(task.id, kept, &[line], index + 1 == JOB.len()).await?;
            let log = self.gitea.task(queued).map_or(vec![], |task| task.log);
            story.show(log.last().map_or("", String::as_str))?;
            tokio::time::sleep(WORK).await;
        }
        let gauges = self.metrics("runner_broker_runners").await?;
        story.claim(
            gauges.iter().any(|line| line.ends_with("state=\"busy\"} 1")),
            "The broker knows meanwhile which runner must not be disturbed. As Prometheus sees it:",
        )?;
        gauges.iter().try_for_each(|line| story.show(line))?;
        builder.update_task(task.id, TaskResult::Success).await?;
        let ended = self.gitea.task(queued).is_some_and(|task| {
            task.log == JOB && task.state == TaskState::Ended(TaskResult::Success)
        });
        story.claim(ended, &format!("Gitea has all {kept} lines of the log, and a success."))
    }

    pub(super) async fn leave<W: Write>(
        &self,
        story: &mut Story<W>,
        deployer: Runner,
        daemon: Daemon,
    ) -> Result<(), DemoError> {
        story.step("A runner leaves and says so").await?;
        daemon.stop().await?;
        let answered = deployer.deregister().await?;
        story.say(&format!(
            "{} calls Deregister, which Gitea itself does not have, with its own token as the proof. \
             The broker deletes runner {} in Gitea and removes its file.",
            answered.name, answered.id
        ))?;
        self.list(story)?;
        story.claim(
            self.gitea.runner(answered.id).is_none() && !self.runner_file(&answered.name).exists(),
            "Gitea does not list it any more, and its file is gone.",
        )?;
        let refused = deployer.fetch_task(0).await.err();
        let said = refused.as_ref().map_or("", |error| &error.message);
        story.claim(
            refused.is_some(),
            &format!("Its credentials are worth nothing now; a call gets: {said:?}."),
        )
    }

    pub(super) async fn vanish<W: Write>(
        &self,
        story: &mut Story<W>,
        builder: Runner,
        tester: Daemon,
    ) -> Result<(), DemoError> {
        story.step("Two runners end without a word").await?;
        story.say(
            "That is how containers end. Gitea would list such runners as offline for ever. The \
             broker sees that their connections closed:",
        )?;
        tester.stop().await?;
        drop(builder);
        loop {
            let moved = self.lifecycle.next_move();
            let all = self.lifecycle.roster.all();
            if all.iter().all(|live| self.lifecycle.state_of(live) == "gone") {
                break;
            }
            moved.await;
        }
        let gauges = self.metrics("runner_broker_runners").await?;
        gauges.iter().try_for_each(|line| story.show(line))?;
        story.claim(self.gitea.runners().len() == 2, "Gitea still lists both.")
    }

    pub(super) async fn end<W: Write>(
        &mut self,
        story: &mut Story<W>,
        log: &LogLines,
    ) -> Result<(), DemoError> {
        story.step("The broker gets SIGTERM").await?;
        let deadline = self.lifecycle.settings.load().shutdown.deadline;
        story.say(&format!(
            "It takes in nobody new, deregisters the runners that are gone, and writes its records, \
             all within {deadline:?}: Docker kills after ten seconds. A runner with a job is left to \
             finish it. This is the broker's log:"
        ))?;
        drop(log.take());
        let begun = Instant::now();
        // Where nobody receives, the broker has ended, and that is told next.
        let _ = self.signals.send(Signal::Terminate).await;
        (&mut self.running).await?;
        let took = begun.elapsed();
        log.take().iter().try_for_each(|line| story.show(line))?;
        story.claim(took < deadline, &format!("It ended after {} ms.", took.as_millis()))?;
        story.claim(self.gitea.runners().is_empty(), "Gitea's list of runners is empty again.")?;
        let files = CAST.iter().any(|(name, ..)| self.runner_file(name).exists());
        story.claim(!files, "No runner file is left.")?;

        story.step("The metrics worth a look").await?;
        let text = self.lifecycle.metrics.render()?;
        for (word, samples) in [
            (
                "Four joined. Alert on every other outcome.",
                &["runner_broker_registrations_total{outcome=\"registered\",scope=\"instance\"} 4"]
                    [..],
            ),
            (
                "Three were turned away. A rise of the last is a wrong secret somewhere, or a stranger.",
                &[
                    "runner_broker_enrollment_rejections_total{reason=\"label\"} 1",
                    "runner_broker_enrollment_rejections_total{reason=\"used_up\"} 1",
                    "runner_broker_enrollment_rejections_total{reason=\"token\"} 1",
                ],
            ),
            (
                "Four left: one with its token, one by its own call, two at the broker's shutdown.",
                &[
                    "runner_broker_deregistrations_total{outcome=\"deleted\",reason=\"revoked\"} 1",
                    "runner_broker_deregistrations_total{outcome=\"deleted\",reason=\"runner\"} 1",
                    "runner_broker_deregistrations_total{outcome=\"deleted\",reason=\"shutdown\"} 2",
                ],
            ),
        ] {
            let there = samples.iter().all(|sample| text.lines().any(|line| line == *sample));
            story.claim(there, word)?;
            samples.iter().try_for_each(|sample| story.show(sample))?;
        }
        let polls =
            samples(&text, "runner_broker_requests_total{code=\"2xx\",route=\"fetch_task\"}");
        story.claim(
            !polls.is_empty(),
            "What passed through is counted by route; these are the polls.",
        )?;
        Ok(polls.iter().try_for_each(|line| story.show(line))?)
    }
}
