//! What an admin should do, told from the status alone.

use std::collections::BTreeSet;

use super::view::{ApiToken, Certificate, Status};
use crate::config::Scope;
use crate::gitea::token_scope;
use crate::lifecycle::Stray;

/// How many ids a hint names.
const SHOWN_IDS: usize = 20;

/// A sentence for each thing that is not as it should be, the worst first. `served` are the scopes of
/// `status`, in their order; `missing` is what Gitea cannot do with an API token; `declared`: the settings
/// name enrollment tokens or runners.
pub(super) fn hints(
    status: &Status,
    served: &[Scope],
    missing: Vec<String>,
    declared: bool,
) -> Vec<String> {
    let mut hints = Vec::new();
    if status.draining {
        hints.push("the broker is ending: it registers nobody and hands out no task".into());
    }
    if !status.store.writable {
        hints.push(format!(
            "the store takes no writes, so no runner can register: check the space and the owner of \
             the folder of {}, and the broker's log",
            status.store.path
        ));
    }
    if !status.gitea.up {
        hints.push(format!(
            "Gitea does not answer at {}: no runner can register or get a task until it does; \
             `runner-broker check --online` tells more",
            status.gitea.url
        ));
    }
    for Certificate { name, expiry, trouble, .. } in &status.certificates {
        if let Some(trouble) = trouble {
            hints.push(format!(
                "the certificate for {name} was changed, and the one from before is still in use: \
                 {trouble}"
            ));
        }
        if let Some(expiry) = expiry {
            hints.push(format!(
                "the certificate for {name} {expiry}: put a new one in its place, which the broker \
                 reads by itself"
            ));
        }
    }
    if status.enrollment_tokens.active == 0 && !declared {
        hints.push(
            "no enrollment token admits anybody: `runner-broker token create` makes one".into(),
        );
    }
    hints.extend(of_api_tokens(status, served));
    if status.scopes.iter().any(|scope| scope.api_token != ApiToken::None) {
        hints.extend(missing);
    }
    match status.unsettled_registrations {
        0 => {}
        count => hints.push(format!(
            "{count} of the registrations are unclear, since Gitea's answer was lost: the broker \
             settles them by itself{}",
            match (status.gitea.up, status.scopes.iter().all(|scope| works(scope.api_token))) {
                (false, _) => " once Gitea answers",
                (true, false) => " once it has an API token that works",
                (true, true) => "",
            }
        )),
    }
    match status.runners.get("lost") {
        None | Some(0) => {}
        Some(1) => hints.push(
            "one of the runners is unknown to Gitea: it is told so within a minute, and must \
             register anew"
                .into(),
        ),
        Some(count) => hints.push(format!(
            "{count} of the runners are unknown to Gitea: is gitea.url right, or was Gitea restored \
             from a backup? Nothing is removed; `runner-broker runner deregister ID` gives one up"
        )),
    }
    match status.runners.get("gone") {
        None | Some(0) => {}
        Some(count) => hints.push(format!(
            "{count} of the runners are gone: each is deregistered when its lease ends, and \
             `runner-broker runner prune --yes` does so now"
        )),
    }
    hints
}

/// Scopes are named where there are several.
fn of_api_tokens(status: &Status, served: &[Scope]) -> Vec<String> {
    let of = |state| {
        let scopes = status.scopes.iter().zip(served).enumerate();
        scopes
            .filter(move |(_, (known, _))| known.api_token == state)
            .map(|(at, (_, scope))| (at, scope))
    };
    let several = served.len() > 1;
    let mut hints = Vec::new();
    let without: Vec<_> = of(ApiToken::None).map(|(_, scope)| scope).collect();
    if !without.is_empty() {
        let names: Vec<_> = without.iter().map(ToString::to_string).collect();
        let needs: BTreeSet<_> = without.iter().map(|scope| token_scope(scope)).collect();
        let needs: Vec<_> = needs.into_iter().collect();
        let (which, setting) = match several {
            true => {
                (format!("there is no API token for {}", names.join(", ")), "its api_token_file")
            }
            false => {
                ("there is no API token".into(), "gitea.api_token_file (GITEA_API_TOKEN_FILE)")
            }
        };
        hints.push(format!(
            "{which}, so runners that leave stay listed in Gitea until others of their kind take their \
             place, and a registration whose answer was lost cannot be settled: set {setting} to a token \
             with the scope {}",
            needs.join(" or ")
        ));
    }
    for (at, scope) in of(ApiToken::Invalid) {
        let (which, setting) = match (several, at) {
            (false, _) => ("the API token".into(), "gitea.api_token_file"),
            (true, 0) => (format!("the API token for {scope}"), "gitea.api_token_file"),
            (true, _) => (format!("the API token for {scope}"), "its api_token_file"),
        };
        hints.push(format!(
            "Gitea refuses {which}, so no runner can be deregistered: put one with the scope {}, of a user \
             who administers {scope}, into {setting} and send SIGHUP",
            token_scope(scope)
        ));
    }
    hints
}

fn works(token: ApiToken) -> bool {
    matches!(token, ApiToken::Valid | ApiToken::Unknown)
}

/// What to do about runners that show the label of another broker's registration; none where there are none.
pub(super) fn strays(strays: &[Stray]) -> Option<String> {
    let shown: Vec<_> = strays.iter().take(SHOWN_IDS).map(|one| one.id.to_string()).collect();
    let more = match strays.len().saturating_sub(SHOWN_IDS) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let ids = shown.join(", ");
    match strays.len() {
        0 => None,
        1 => Some(format!(
            "one of the runners in Gitea shows the label of a registration that this broker does not know \
             (id {ids}): if no other broker serves this Gitea, delete it there"
        )),
        count => Some(format!(
            "{count} of the runners in Gitea show the label of a registration that this broker does not know \
             (ids {ids}{more}): if no other broker serves this Gitea, delete them there"
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::view::{
        Abilities, Addresses, EnrollmentTokens, Gitea, RegistrationToken, ScopeTokens, Store,
    };
    use super::*;

    fn scope(name: &str, api_token: ApiToken) -> ScopeTokens {
        let registration_token = RegistrationToken::Set;
        ScopeTokens { scope: name.into(), api_token, registration_token }
    }

    /// With the scopes as the status names them, and a Gitea that can do all.
    fn said(status: &Status, declared: bool) -> Vec<String> {
        let served: Vec<_> =
            status.scopes.iter().map(|one| one.scope.parse::<Scope>().unwrap()).collect();
        hints(status, &served, Vec::new(), declared)
    }

    fn well() -> Status {
        Status {
            version: "1.0.0".into(),
            uptime_seconds: 1,
            draining: false,
            gitea: Gitea {
                url: "http://gitea:3000".into(),
                scope: "org:acme".into(),
                up: true,
                version: Some("1.26.0".into()),
                abilities: Abilities::default(),
                api_token: ApiToken::Valid,
            },
            scopes: vec![scope("org:acme", ApiToken::Valid)],
            runners: BTreeMap::from([("idle".into(), 3), ("gone".into(), 0)]),
            unsettled_registrations: 0,
            enrollment_tokens: EnrollmentTokens { active: 1, ..EnrollmentTokens::default() },
            store: Store { path: "/data/state.db".into(), writable: true },
            addresses: Addresses {
                runners: ([127, 0, 0, 1], 8080).into(),
                admin: ([127, 0, 0, 1], 8081).into(),
                socket: "/data/admin.sock".into(),
            },
            certificates: vec![certificate(None, None)],
            hints: Vec::new(),
        }
    }

    fn certificate(expiry: Option<&str>, trouble: Option<&str>) -> Certificate {
        Certificate {
            name: "runners".into(),
            expires_at: "2030-01-01T00:00:00Z".into(),
            expiry: expiry.map(Into::into),
            trouble: trouble.map(Into::into),
        }
    }

    #[test]
    fn a_certificate_that_ends_or_was_spoilt_is_told_of() {
        let mut status = well();
        status.certificates = vec![certificate(Some("expires in 3 days"), Some("/k does not fit"))];
        let hints = said(&status, false);
        assert_eq!(hints.len(), 2, "{hints:#?}");
        assert!(hints[0].ends_with("is still in use: /k does not fit"), "{hints:#?}");
        assert!(
            hints[1].starts_with("the certificate for runners expires in 3 days:"),
            "{hints:#?}"
        );
    }

    #[test]
    fn where_all_is_well_there_is_nothing_to_do() {
        assert_eq!(said(&well(), false), Vec::<String>::new());
    }

    #[test]
    fn each_trouble_has_its_hint_with_what_to_set() {
        let mut status = well();
        status.store.writable = false;
        status.gitea.up = false;
        status.scopes[0].api_token = ApiToken::None;
        status.unsettled_registrations = 2;
        status.runners.insert("gone".into(), 4);
        status.runners.insert("lost".into(), 3);
        status.draining = true;
        status.enrollment_tokens.active = 0;
        let hints = said(&status, false);
        let words = [
            "ending",
            "/data",
            "http://gitea:3000",
            "token create",
            "write:organization",
            "2 of",
            "3 of",
            "4 of",
        ];
        assert_eq!(hints.len(), words.len(), "{hints:#?}");
        for (hint, word) in hints.iter().zip(words) {
            assert!(hint.contains(word), "{hint}");
        }
    }

    #[test]
    fn strays_are_named_by_their_ids() {
        let stray = |id| Stray {
            scope: crate::config::Scope::Instance,
            id,
            name: "one".into(),
            label: "rb-intent-1".into(),
        };
        assert_eq!(super::strays(&[]), None);
        assert!(super::strays(&[stray(7)]).unwrap().contains("(id 7)"));
        assert!(super::strays(&[stray(7), stray(8)]).unwrap().contains("(ids 7, 8)"));
        let many: Vec<_> = (1..=33).map(stray).collect();
        let hint = super::strays(&many).unwrap();
        assert!(hint.starts_with("33 of") && hint.contains(", 20 and 13 more)"), "{hint}");
    }

    #[test]
    fn who_declares_tokens_knows_where_to_make_one() {
        let mut status = well();
        status.enrollment_tokens = EnrollmentTokens { expired: 2, ..EnrollmentTokens::default() };
        assert_eq!(said(&status, false).len(), 1);
        assert_eq!(said(&status, true).len(), 0);
    }

    #[test]
    fn an_unclear_registration_waits_for_a_token_that_works() {
        let mut status = well();
        status.unsettled_registrations = 1;
        assert!(said(&status, false)[0].ends_with("by itself"));
        status.scopes[0].api_token = ApiToken::Invalid;
        assert!(said(&status, false)[1].ends_with("token that works"));
    }

    #[test]
    fn of_several_scopes_each_is_named() {
        let mut status = well();
        status.scopes = vec![
            scope("instance", ApiToken::Valid),
            scope("org:acme", ApiToken::Invalid),
            scope("org:one", ApiToken::None),
            scope("repo:a/b", ApiToken::None),
        ];
        let hints = said(&status, false);
        assert_eq!(hints.len(), 2, "{hints:#?}");
        assert!(
            hints[0].starts_with("there is no API token for org:one, repo:a/b, so"),
            "{hints:#?}"
        );
        assert!(hints[0].ends_with("write:organization or write:repository"), "{hints:#?}");
        assert!(hints[1].starts_with("Gitea refuses the API token for org:acme, so"), "{hints:#?}");
    }

    #[test]
    fn what_gitea_cannot_do_matters_where_there_is_an_api_token() {
        let mut status = well();
        let missing = || vec!["Gitea 1.23 cannot".to_owned()];
        assert_eq!(hints(&status, &[Scope::Instance], missing(), false), missing());
        status.scopes[0].api_token = ApiToken::None;
        assert_eq!(hints(&status, &[Scope::Instance], missing(), false).len(), 1);
    }
}
