//! `runner drain`: a runner gets no task any more and is deregistered when the one in hand has ended.

use std::time::Duration;

use hyper::{Method, StatusCode};
use tokio::time::sleep;

use super::path;
use crate::admin::view::Runner;
use crate::cli::client::{Broker, BrokerArgs, QUICK, SLOW};
use crate::cli::show::plain;
use crate::cli::{Failure, block_on, complain, print};
use crate::config::Setting;

/// How often the broker is asked how it goes.
const PACE: Duration = Duration::from_secs(1);
/// What a shell gives a command that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// Give a runner no task any more, wait for its task, and deregister it
///
/// Where Gitea can switch a runner off, that is done first, so that it holds for runners that dial Gitea
/// themselves too. After the timeout, the broker's setting shutdown.busy says what becomes of the runner:
/// "cancel" reports its task as cancelled and deregisters it; with "leave" the drain is called off, and
/// the command ends with exit code 75.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Gitea's id, the uuid, or a name that only one runner has
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    id: String,

    /// How long its task may take
    #[arg(long, value_name = "DURATION", default_value = "3h", value_parser = duration)]
    timeout: String,

    /// Do not wait for the end
    #[arg(long)]
    no_wait: bool,

    #[command(flatten)]
    broker: BrokerArgs,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let broker = args.broker.broker()?;
    block_on(async {
        let timeout = crate::gitea::escape(&args.timeout);
        let path = format!("{}/drain?timeout={timeout}", path(&args.id));
        let runner: Runner = broker.ask(Method::POST, &path, SLOW).await?;
        if args.no_wait {
            return print(format!("{} is drained: it gets no task from now on", named(&runner)));
        }
        tokio::select! {
            ended = ended(&broker, runner) => ended,
            Ok(()) = tokio::signal::ctrl_c() => {
                let message = "not waiting any longer; the broker goes on with the drain";
                Err(Failure::new(INTERRUPTED, message))
            }
        }
    })
}

/// Waits for the drain's end, and tells what it waits for.
async fn ended(broker: &Broker, begun: Runner) -> Result<(), Failure> {
    // By a name, another runner might be found later.
    let path = path(&begun.uuid);
    let mut runner = begun.clone();
    let mut told = String::new();
    while runner.state == "draining" {
        let waits = match runner.tasks.as_slice() {
            [] => "waiting until Gitea has deleted it".to_owned(),
            [task, ..] => format!("waiting for task {task}"),
        };
        if waits != told {
            complain(format!("{}: {waits}", named(&runner)));
            told = waits;
        }
        sleep(PACE).await;
        let answer = broker.raw(Method::GET, &path, QUICK).await.map_err(|failure| {
            let message = format!("{}\nthe broker goes on with the drain", failure.message);
            Failure::new(failure.code, message)
        })?;
        runner = match answer.status() {
            StatusCode::NOT_FOUND => break,
            _ => broker.read(answer)?,
        };
    }
    match runner.state.as_str() {
        "draining" | "deregistered" => print(format!("{} is deregistered", named(&begun))),
        state => {
            let message = format!(
                "the drain was called off, as its time was over: {} is {} and gets tasks again; drain \
                 it with a longer --timeout, or set shutdown.busy = \"cancel\"",
                named(&runner),
                plain(state)
            );
            Err(Failure::new(Failure::TEMPORARY, message))
        }
    }
}

fn named(runner: &Runner) -> String {
    format!("runner {} ({})", runner.id, plain(&runner.name))
}

fn duration(text: &str) -> Result<String, String> {
    Duration::parse(text).map(|_| text.to_owned())
}
