//! The broker on one screen.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;

use crate::admin::Admin;
use crate::admin::health::api_token;
use crate::admin::hints::{hints, strays};
use crate::admin::view::{
    Abilities, Addresses, Certificate, EnrollmentTokens, Gitea, ScopeTokens, Status, Store,
};
use crate::broker::token::{Origin, State as Stands};
use crate::config::Served;
use crate::lifecycle::{STATES, TokenNow, UNCLEAR};

/// The broker on one screen
#[utoipa::path(
    get, path = "/api/v1/status", operation_id = "showStatus", tag = "broker",
    responses((status = 200, description = "How it stands, and what to do", body = Status)),
)]
pub(super) async fn show(State(admin): State<Admin>) -> Json<Status> {
    let lifecycle = &admin.lifecycle;
    let writable = lifecycle.store_writable().await.is_ok();
    let settings = lifecycle.settings.load();
    // What is unclear is told apart.
    let states = STATES.into_iter().filter(|state| *state != UNCLEAR);
    let mut runners: BTreeMap<_, _> = states.map(|state| (state.to_owned(), 0)).collect();
    lifecycle.roster.look(|live| {
        let state = lifecycle.state_of(live);
        match runners.get_mut(state) {
            Some(count) => *count += 1,
            None => drop(runners.insert(state.to_owned(), 1)),
        }
    });
    let tokens = lifecycle.tokens();
    let abilities = lifecycle.gitea.abilities();
    let scope = |Served { scope, .. }: &Served| ScopeTokens {
        scope: scope.to_string(),
        api_token: api_token(lifecycle, scope),
        registration_token: lifecycle.gitea.registration(scope).into(),
    };
    let mut status = Status {
        version: env!("CARGO_PKG_VERSION").into(),
        uptime_seconds: admin.started.elapsed().as_secs(),
        draining: lifecycle.is_draining(),
        gitea: Gitea {
            url: settings.gitea.url.to_string().trim_end_matches('/').to_owned(),
            scope: settings.gitea.default.scope.to_string(),
            up: lifecycle.gitea.is_up(),
            version: abilities.version.clone(),
            abilities: Abilities::from(&*abilities),
            api_token: api_token(lifecycle, &settings.gitea.default.scope),
        },
        scopes: settings.gitea.served().map(scope).collect(),
        runners,
        unsettled_registrations: lifecycle.unsettled(),
        enrollment_tokens: count(&tokens),
        store: Store { path: lifecycle.store.path().display().to_string(), writable },
        addresses: Addresses {
            runners: admin.runners,
            admin: admin.listen,
            socket: admin.socket.display().to_string(),
        },
        certificates: admin.certificates.all().into_iter().map(Certificate::from).collect(),
        hints: Vec::new(),
    };
    let declared = tokens.iter().any(|now| now.token.origin == Origin::Declared)
        || !settings.runners.is_empty();
    let served: Vec<_> = settings.gitea.served().map(|served| served.scope.clone()).collect();
    status.hints = hints(&status, &served, abilities.missing(), declared);
    status.hints.extend(strays(&lifecycle.strays()));
    let troubles = lifecycle.declared_troubles();
    status.hints.extend(troubles.iter().map(|trouble| format!("declared runner {trouble}")));
    Json(status)
}

fn count(tokens: &[TokenNow]) -> EnrollmentTokens {
    let mut count = EnrollmentTokens::default();
    for now in tokens {
        match now.state {
            Stands::Active => count.active += 1,
            Stands::Disabled => count.disabled += 1,
            Stands::Expired => count.expired += 1,
            Stands::UsedUp => count.used_up += 1,
            Stands::Deleted => {}
        }
    }
    count
}
