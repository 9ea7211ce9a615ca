//! Looks through Gitea's lists: one reading of a scope's list serves all that is unsettled there, and shows
//! what nobody has credentials for. What is provably ours is deleted; what is not is reported.
//! [`broker::orphan`](crate::broker::orphan) decides.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{debug, error, info, warn};

use super::settle::{Turn, Unsettled};
use super::{Lifecycle, Timing};
use crate::broker::orphan::{Row, judge};
use crate::broker::{Event, Intent, Reason, What};
use crate::config::Scope;
use crate::gitea::{DeleteAnswer, Listing, RestError, RestRunner};
use crate::telemetry::metrics::DeregistrationOutcome as Outcome;

/// The longest time for which Gitea is left alone because it asks for it.
const LONGEST_REST: Duration = Duration::from_secs(60 * 60);
/// How many labels, and how many strays at a time, the log names.
const NAMED: usize = 20;

/// A runner in Gitea that shows the label of a registration that this broker does not know: another broker's,
/// or of a store that was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stray {
    /// Whose list shows it.
    pub scope: Scope,
    /// Gitea's id of it.
    pub id: i64,
    /// What it calls itself.
    pub name: String,
    /// The label.
    pub label: String,
}

/// Strays that were seen, by their ids.
#[derive(Default)]
pub(super) struct Strays(BTreeMap<i64, Sighting>);

struct Sighting {
    stray: Stray,
    first: Instant,
    /// It was seen again, so late that its registration is over, whoever's it was.
    reported: bool,
}

/// When each scope's list is read.
#[derive(Default)]
pub(super) struct Lists(HashMap<Scope, Pace>);

struct Pace {
    turn: Turn,
    /// What was complained of, so that it is told once.
    complaint: Option<String>,
}

/// One reading of a scope's list.
struct Reading<'a> {
    scope: &'a Scope,
    begun: Instant,
    listing: Listing,
    /// What was unsettled before it began, in all scopes.
    unsettled: Vec<Unsettled>,
}

impl Lists {
    /// When the first of them is read next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().filter_map(|pace| pace.turn.next()).min()
    }
}

impl Lifecycle {
    /// What Gitea shows of other registrations.
    #[must_use]
    pub fn strays(&self) -> Vec<Stray> {
        let strays = self.strays_seen();
        strays.0.values().filter(|one| one.reported).map(|one| one.stray.clone()).collect()
    }

    /// Reads the lists of the scopes in which something is unsettled or a sweep is due. `woken`: there is
    /// something new.
    pub(super) async fn settle_lists(&self, lists: &mut Lists, woken: bool) {
        let unsettled = self.all_unsettled();
        let mut scopes: BTreeSet<_> =
            unsettled.iter().map(|one| one.intent.scope.clone()).collect();
        let settings = self.settings.load_full();
        scopes.extend(settings.gitea.served().map(|served| served.scope.clone()));
        lists.0.retain(|scope, _| scopes.contains(scope));
        for scope in scopes {
            if self.is_draining() {
                return;
            }
            let open: Vec<_> = unsettled.iter().filter(|one| one.intent.scope == scope).collect();
            let new = || Pace { turn: Turn::new(self.timing.retry), complaint: None };
            let Pace { turn, complaint } = lists.0.entry(scope.clone()).or_insert_with(new);
            if !self.gitea.has_api_token(&scope) {
                // Nothing can be done about them before the settings change.
                turn.done(None);
                tell_of_missing_token(&scope, &open, complaint);
                continue;
            }
            if woken && (!open.is_empty() || turn.waits()) {
                turn.now();
            }
            if !turn.is_due() {
                continue;
            }
            let begun = Instant::now();
            match self.look_through(&scope, !open.is_empty()).await {
                Ok(found) => {
                    *complaint = None;
                    let Timing { sweep, absence_proves, .. } = self.timing;
                    let wait = if found.young { absence_proves.min(sweep) } else { sweep };
                    match found.open {
                        0 => turn.done(Some(Instant::now() + wait)),
                        // So that no more than half of the time is spent with it.
                        _ => turn.again(begun.elapsed()),
                    }
                }
                Err(error) => {
                    turn.again(error.retry_after().unwrap_or_default().min(LONGEST_REST));
                    tell_of_failure(&scope, &open, &error, complaint);
                }
            }
        }
    }

    /// `settles`: something is unsettled there, so that it matters that the list is complete.
    async fn look_through(&self, scope: &Scope, settles: bool) -> Result<Found, RestError> {
        let unsettled = self.all_unsettled();
        let begun = Instant::now();
        let listing = match settles {
            true => self.gitea.list_all(scope).await?,
            false => self.gitea.list_once(scope).await?,
        };
        let reading = Reading { scope, begun, listing, unsettled };
        // Each is deleted that can be, and what failed is told at the end.
        let mut failed = None;
        let mut found = HashSet::new();
        for (runner, one) in reading.orphans() {
            found.insert(one.intent.nonce.as_str());
            let Intent { key, .. } = &one.intent;
            let token_id = (!key.parent_id.is_empty()).then(|| key.parent_id.clone());
            self.delete_orphan(scope, runner, token_id, &mut failed).await?;
        }
        let mut open = 0;
        for one in reading.unsettled.iter().filter(|one| one.intent.scope == *scope) {
            let absent = reading.listing.complete
                && !found.contains(one.intent.nonce.as_str())
                && reading.begun >= one.since + self.timing.absence_proves;
            if !absent || !self.settle(&one.intent).await {
                open += 1;
            }
        }
        let young = self.look_for_strays(&reading, &mut failed).await?;
        match failed {
            Some(error) => Err(error),
            None => Ok(Found { open, young }),
        }
    }

    /// Nobody has its credentials. Whether it is gone, the next reading tells: a 404 may mean that the token may
    /// not delete it.
    async fn delete_orphan(
        &self,
        scope: &Scope,
        runner: &RestRunner,
        token_id: Option<String>,
        failed: &mut Option<RestError>,
    ) -> Result<(), RestError> {
        if self.is_draining() {
            return Ok(());
        }
        let RestRunner { id, name, .. } = runner;
        match self.gitea.delete_runner(scope, *id).await {
            Ok(DeleteAnswer::Deleted) => {
                self.metrics.deregistration(Reason::Orphan, Outcome::Deleted);
                self.note_event(Event {
                    token_id,
                    runner_id: Some(*id),
                    runner: Some(name.clone()),
                    detail: Reason::Orphan.as_str().into(),
                    ..Event::now("broker", What::RunnerDeregistered)
                });
                info!(runner = name, id, %scope, "orphan of an unclear registration deleted");
            }
            Ok(DeleteAnswer::NotFound) => {
                debug!(id, %scope, "Gitea does not find an orphan to delete")
            }
            // It is about this one alone.
            Err(error @ RestError::Unexpected(..)) => *failed = Some(error),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Gitea has nothing of it, and nothing comes any more.
    async fn settle(&self, intent: &Intent) -> bool {
        if let Err(error) = self.store.drop_intent(&intent.nonce).await {
            error!(%error, "the store did not let go of a settled registration");
            return false;
        }
        self.forget_unsettled(&intent.nonce);
        info!(
            runner = intent.key.name,
            label = intent.label(),
            "unclear registration settled: no runner in Gitea shows its label"
        );
        true
    }

    /// Deletes what a registration left that acted twice, and notes what cannot be proved ours. Returns whether
    /// something was seen that is to be seen again soon.
    async fn look_for_strays(
        &self,
        reading: &Reading<'_>,
        failed: &mut Option<RestError>,
    ) -> Result<bool, RestError> {
        let marked = reading.marked();
        let mut strays = Vec::new();
        if !marked.is_empty() {
            let nonces = marked.iter().map(|(_, nonce)| (*nonce).to_owned()).collect();
            let traces = match self.store.traces(nonces).await {
                Ok(traces) => traces,
                Err(error) => {
                    error!(%error, "the store does not tell which registrations were its own");
                    return Ok(false);
                }
            };
            let shown = |id| {
                let runners = &reading.listing.runners;
                runners.binary_search_by_key(&id, |runner| runner.id).is_ok()
            };
            for (runner, nonce) in marked {
                match judge(runner.id, traces.get(nonce).map_or(&[], Vec::as_slice), shown) {
                    Row::Open | Row::Own => {}
                    Row::Orphan => self.delete_orphan(reading.scope, runner, None, failed).await?,
                    Row::Stray => strays.push(runner),
                }
            }
        }
        let hidden = self.strays_seen().hidden(reading);
        for id in hidden {
            if self.gitea.show_runner(reading.scope, id).await?.is_none() {
                self.strays_seen().0.remove(&id);
            }
        }
        Ok(self.strays_seen().see(reading, &strays, self.timing.absence_proves))
    }

    fn strays_seen(&self) -> MutexGuard<'_, Strays> {
        self.strays.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a reading came to.
struct Found {
    /// How much is unsettled still.
    open: usize,
    /// Whether a stray was seen that may be a registration that goes on.
    young: bool,
}

impl Reading<'_> {
    /// The rows of what is unsettled, in any scope.
    fn orphans(&self) -> Vec<(&RestRunner, &Unsettled)> {
        let by_nonce: HashMap<_, _> =
            self.unsettled.iter().map(|one| (one.intent.nonce.as_str(), one)).collect();
        let orphan =
            |runner| nonces(runner).find_map(|nonce| by_nonce.get(nonce)).map(|one| (runner, *one));
        self.listing.runners.iter().filter_map(orphan).collect()
    }

    /// The rows of other registrations.
    fn marked(&self) -> Vec<(&RestRunner, &str)> {
        let unsettled: HashSet<_> =
            self.unsettled.iter().map(|one| one.intent.nonce.as_str()).collect();
        let marked = |runner| {
            let mut nonces = nonces(runner).peekable();
            let nonce = *nonces.peek()?;
            (!nonces.any(|nonce| unsettled.contains(nonce))).then_some((runner, nonce))
        };
        self.listing.runners.iter().filter_map(marked).collect()
    }
}

fn nonces(runner: &RestRunner) -> impl Iterator<Item = &str> {
    runner.labels.iter().filter_map(|label| Intent::nonce_of(label))
}

impl Strays {
    /// Those of which this reading tells nothing.
    fn hidden(&self, reading: &Reading<'_>) -> Vec<i64> {
        if reading.listing.complete {
            return Vec::new();
        }
        let shown: HashSet<_> = reading.listing.runners.iter().map(|runner| runner.id).collect();
        let of_scope = self.0.values().filter(|one| one.stray.scope == *reading.scope);
        of_scope.map(|one| one.stray.id).filter(|id| !shown.contains(id)).collect()
    }

    /// Takes up what was seen, and says in the log what is seen for the second time. Returns whether there is one
    /// that was not reported yet.
    fn see(&mut self, reading: &Reading<'_>, seen: &[&RestRunner], patience: Duration) -> bool {
        let Reading { scope, begun, listing, .. } = reading;
        let still: HashSet<_> = seen.iter().map(|runner| runner.id).collect();
        let shown: HashSet<_> = listing.runners.iter().map(|runner| runner.id).collect();
        self.0.retain(|id, one| {
            let gone = match shown.contains(id) {
                true => !still.contains(id),
                false => listing.complete,
            };
            one.stray.scope != **scope || !gone
        });
        let mut news = Vec::new();
        for runner in seen {
            let label = runner.labels.iter().find(|label| Intent::nonce_of(label).is_some());
            let one = self.0.entry(runner.id).or_insert_with(|| Sighting {
                stray: Stray {
                    scope: (*scope).clone(),
                    id: runner.id,
                    name: runner.name.clone(),
                    label: label.cloned().unwrap_or_default(),
                },
                first: *begun,
                reported: false,
            });
            if !one.reported && begun.saturating_duration_since(one.first) >= patience {
                one.reported = true;
                news.push(one.stray.clone());
            }
        }
        for Stray { scope, id, name, label } in news.iter().take(NAMED) {
            warn!(
                runner = name,
                id,
                label,
                %scope,
                "this runner in Gitea shows the label of a registration that this broker does not know, so it \
                 is left alone: if no other broker serves this Gitea, delete it there"
            );
        }
        if news.len() > NAMED {
            warn!(
                more = news.len() - NAMED,
                "and so do others: `runner-broker status` tells of them"
            );
        }
        self.0.values().any(|one| !one.reported && one.stray.scope == **scope)
    }
}

fn tell_of_missing_token(scope: &Scope, open: &[&Unsettled], told: &mut Option<String>) {
    let complaint = "no API token".to_owned();
    if open.is_empty() || told.replace(complaint.clone()) == Some(complaint) {
        return;
    }
    warn!(
        %scope,
        count = open.len(),
        labels = labels(open),
        "there is no API token for this scope, so its unclear registrations cannot be settled: runners that \
         show such labels on Gitea's page are orphans and may be deleted there"
    );
}

fn tell_of_failure(
    scope: &Scope,
    open: &[&Unsettled],
    error: &RestError,
    told: &mut Option<String>,
) {
    let complaint = error.to_string();
    if open.is_empty() {
        return debug!(%scope, %error, "Gitea's list of runners is not looked through yet");
    }
    if told.replace(complaint.clone()) == Some(complaint) {
        return;
    }
    warn!(
        %scope,
        %error,
        count = open.len(),
        labels = labels(open),
        "unclear registrations cannot be settled yet; runners that show such labels on Gitea's page are \
         orphans and may be deleted there"
    );
}

fn labels(open: &[&Unsettled]) -> String {
    let named: Vec<_> = open.iter().take(NAMED).map(|one| one.intent.label()).collect();
    named.join(" ")
}
