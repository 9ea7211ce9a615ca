//! `status`: the broker on one screen, and what to do.

use std::fmt::Write;
use std::time::Duration;

use super::client::BrokerArgs;
use super::show::{self, plain};
use super::{Failure, block_on, print};
use crate::admin::view::{
    Abilities, ApiToken, Certificate, EnrollmentTokens, Minting, RegistrationToken, ScopeTokens,
    Status, rough,
};

/// Show the broker on one screen, and what to do
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON for programs
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    broker: BrokerArgs,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let broker = args.broker.broker()?;
    let status: Status = block_on(broker.get("/api/v1/status"))?;
    if args.json { print(show::json(&status)?) } else { print(screen(&status)) }
}

fn screen(status: &Status) -> String {
    let Status { gitea, store, addresses, .. } = status;
    let up = rough(Duration::from_secs(status.uptime_seconds));
    let ending = if status.draining { ", ending" } else { "" };
    let writable = if store.writable { "writable" } else { "takes no writes" };
    let states: Vec<_> =
        status.runners.iter().map(|(state, count)| format!("{count} {}", plain(state))).collect();
    let mut lines = vec![
        ("broker", format!("{}, up {up}{ending}", plain(&status.version))),
        ("runners dial", addresses.runners.to_string()),
        ("admin", format!("{}, {}", addresses.admin, plain(&addresses.socket))),
        (
            "gitea",
            format!(
                "{} {}, {}",
                plain(&gitea.url),
                if gitea.up { "answers" } else { "does not answer" },
                gitea.version.as_deref().map_or("version not known".into(), plain)
            ),
        ),
        ("gitea's API", can(&gitea.abilities)),
    ];
    lines.extend(status.scopes.iter().map(|scope| ("scope", tokens_of(scope))));
    lines.extend([
        ("enrollment tokens", tokens(&status.enrollment_tokens)),
        ("store", format!("{} {writable}", plain(&store.path))),
        ("runners", states.join(", ")),
        ("unclear", format!("{} registrations", status.unsettled_registrations)),
    ]);
    lines.extend(status.certificates.iter().map(|shown| ("certificate", certificate(shown))));
    let mut screen = String::new();
    for (what, text) in lines {
        writeln!(screen, "{what:<19}{text}").expect("a String takes all");
    }
    match status.hints.as_slice() {
        [] => screen += "\nnothing to do",
        hints => {
            screen += "\nto do";
            for hint in hints {
                write!(screen, "\n- {}", plain(hint)).expect("a String takes all");
            }
        }
    }
    screen
}

/// What Gitea can do, and what it cannot.
fn can(abilities: &Abilities) -> String {
    let all = [
        (abilities.list, "lists runners"),
        (abilities.delete, "deletes them"),
        (abilities.switch_off, "switches them off"),
        (abilities.mint.map(|mint| mint != Minting::No), "gives out registration tokens"),
    ];
    let told =
        [(Some(true), ""), (Some(false), "not: "), (None, "not known: ")].map(|(state, what)| {
            let those = all.iter().filter(|(known, _)| *known == state).map(|(_, name)| *name);
            let those = those.collect::<Vec<_>>().join(", ");
            if those.is_empty() { those } else { format!("{what}{those}") }
        });
    told.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ")
}

fn tokens_of(scope: &ScopeTokens) -> String {
    let api_token = match scope.api_token {
        ApiToken::None => "none",
        ApiToken::Valid => "valid",
        ApiToken::Invalid => "refused by Gitea",
        ApiToken::Unknown => "not tried yet",
    };
    let registration_token = match scope.registration_token {
        RegistrationToken::Set => "set",
        RegistrationToken::Minted => "minted",
        RegistrationToken::NoneYet => "none yet",
    };
    let name = plain(&scope.scope);
    format!("{name}: API token {api_token}, registration token {registration_token}")
}

fn certificate(shown: &Certificate) -> String {
    format!("{}: until {}", plain(&shown.name), plain(&shown.expires_at))
}

/// Those that admit, and of the others what there is.
fn tokens(tokens: &EnrollmentTokens) -> String {
    let others =
        [(tokens.disabled, "disabled"), (tokens.expired, "expired"), (tokens.used_up, "used up")];
    let mut told = format!("{} active", tokens.active);
    for (count, state) in others.into_iter().filter(|(count, _)| *count > 0) {
        told += &format!(", {count} {state}");
    }
    told
}
