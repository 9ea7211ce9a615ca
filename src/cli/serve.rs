//! `serve`: the broker.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::warn;

use super::{Failure, SettingsArgs};
use crate::app::{App, Reload, StartError};
use crate::lifecycle::Timing;
use crate::shutdown::Signal;
use crate::{net, systemd, telemetry};

/// Run the broker
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Runs the broker until it is told to end.
pub(super) fn run(args: Args) -> Result<(), Failure> {
    super::block_on(async move {
        // Before anything else: the first process of a container is deaf to a signal without a handler.
        let mut signals = signals()?;
        // Whatever is made from here on is the broker's own; runner files get their mode exactly.
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        net::descriptors::raise_limit();
        let loaded = args.settings.load()?;
        telemetry::log::init(loaded.settings.log);
        for warning in &loaded.warnings {
            warn!("{warning}");
        }
        let reload: Reload = Box::new(move || match args.settings.load() {
            Ok(loaded) => Ok(loaded.settings),
            Err(failure) => Err(failure.message),
        });
        let app = App::start(loaded.settings, reload, Timing::default()).await?;
        tokio::spawn(systemd::attend(Arc::clone(&app.lifecycle)));
        app.run(&mut signals).await;
        Ok(())
    })
}

/// The signals that the broker knows, one after the other as they come.
fn signals() -> Result<mpsc::Receiver<Signal>, Failure> {
    let (sender, receiver) = mpsc::channel(8);
    for (kind, meaning) in [
        (SignalKind::terminate(), Signal::Terminate),
        (SignalKind::interrupt(), Signal::Terminate),
        (SignalKind::quit(), Signal::Quit),
        (SignalKind::hangup(), Signal::Reload),
    ] {
        let mut stream = signal(kind).map_err(|error| {
            Failure::new(Failure::INTERNAL, format!("signals cannot be received: {error}"))
        })?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                if sender.send(meaning).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok(receiver)
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let code = match &error {
            StartError::Tls(_) | StartError::Certificate(_) => Self::SETTINGS,
            StartError::Store(_) | StartError::Listen { .. } | StartError::Socket { .. } => {
                Self::UNAVAILABLE
            }
            StartError::Metrics(_) => Self::INTERNAL,
        };
        Self::new(code, error)
    }
}
