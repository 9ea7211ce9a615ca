//! Which parked runners there are of each kind: a newcomer finds one without a look at all of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Live;
use crate::broker::succession::{Newcomer, fits};
use crate::broker::{Record, RecordId, RecordState};
use crate::config::Scope;

/// So many are named to a newcomer: more than registrations run at a time, each of which has one in hand.
const NAMED: usize = 64;

/// Those that were parked, and of which it was not noticed yet that they are no more.
#[derive(Default)]
pub(super) struct Parked {
    by_age: BTreeSet<(String, RecordId)>,
    by_name: BTreeSet<(String, String, RecordId)>,
}

impl Parked {
    /// It was parked.
    pub(super) fn add(&mut self, record: &Record) {
        // Nobody takes these over.
        if record.parent_id.is_empty() || record.ephemeral {
            return;
        }
        let kind = kind_of(record);
        self.by_name.insert((kind.clone(), record.name.clone(), record.record_id));
        self.by_age.insert((kind, record.record_id));
    }

    /// It is known no more.
    pub(super) fn remove(&mut self, record: &Record) {
        let kind = kind_of(record);
        let by_name = (kind, record.name.clone(), record.record_id);
        if self.by_name.remove(&by_name) {
            self.by_age.remove(&(by_name.0, record.record_id));
        }
    }

    /// Those that a newcomer may take over: the ones of its name, then the others, the older ones first.
    pub(super) fn find(
        &mut self,
        newcomer: &Newcomer<'_>,
        get: impl Fn(RecordId) -> Option<Arc<Live>>,
    ) -> Vec<Arc<Live>> {
        let kind = kind(newcomer.parent_id, newcomer.scope, newcomer.labels);
        let first = (kind.clone(), newcomer.name.to_owned(), RecordId(i64::MIN));
        let named = self.by_name.range(first..);
        let named = named
            .take_while(|(its, name, _)| *its == kind && name == newcomer.name)
            .map(|(_, _, id)| *id);
        let others = self.by_age.range((kind.clone(), RecordId(i64::MIN))..);
        let others = others.take_while(|(its, _)| *its == kind).map(|(_, id)| *id);
        let (mut found, mut left) = (Vec::new(), Vec::new());
        for id in named.chain(others) {
            if found.iter().any(|live: &Arc<Live>| live.record_id == id) {
                continue;
            }
            let Some(live) = get(id) else { continue };
            match live.state() {
                RecordState::Parked(_) if fits(&live.record(), newcomer) => found.push(live),
                // It may be handed on later.
                RecordState::Parked(_) | RecordState::Deregistering(_) => {}
                _ => left.push(live),
            }
            if found.len() == NAMED {
                break;
            }
        }
        for live in left {
            self.remove(&live.record());
        }
        found
    }
}

fn kind_of(record: &Record) -> String {
    kind(&record.parent_id, &record.scope, &record.labels)
}

/// What has to be the same. Two kinds that are written alike are told apart where it matters, by [`fits`].
fn kind(parent_id: &str, scope: &Scope, labels: &[String]) -> String {
    let labels: BTreeSet<_> = labels.iter().map(String::as_str).collect();
    let labels: Vec<_> = labels.into_iter().collect();
    format!("{parent_id}\n{scope}\n{}", labels.join("\n"))
}
