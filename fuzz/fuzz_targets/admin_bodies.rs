//! What the admin API takes for a new token is one that can be, and what it takes for a child asks for
//! nothing that cannot be told.
#![no_main]

use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use runner_broker::admin::draft;
use runner_broker::admin::view::{NewChild, NewToken};
use runner_broker::config::{Gitea, Scope, Served};

fuzz_target!(|input: &[u8]| {
    let scope = Scope::Org("acme".into());
    let served = Gitea {
        url: "http://gitea".parse().expect("an address"),
        default: Served {
            section: "gitea".into(),
            scope: scope.clone(),
            registration_token: None,
            api_token: None,
        },
        further: Vec::new(),
        ca_file: None,
        client: None,
        lost_wakeup_workaround: true,
    };
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_893_456_000);
    if let Ok(new) = serde_json::from_slice::<NewToken>(input) {
        let asked = new.clone();
        match draft::draft(new, &served, now) {
            Ok(draft) => {
                assert_eq!(draft.check(now), Ok(()));
                assert_eq!(draft.policy.scope, scope);
                let policy = &draft.policy;
                assert_eq!(policy.allowed_cidrs.len(), asked.allowed_cidrs.len());
                assert_eq!(policy.labels, asked.labels);
                let ends = asked.expires_at.is_some() || asked.expires_in.is_some();
                assert_eq!(policy.expires_at.is_some(), ends);
            }
            Err(wrong) => assert!(!wrong.is_empty()),
        }
    }
    if let Ok(new) = serde_json::from_slice::<NewChild>(input) {
        match draft::exchange(new) {
            Ok(_) => {}
            Err(wrong) => assert_eq!(wrong.len(), 1),
        }
    }
});
