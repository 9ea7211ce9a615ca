//! Where an adopted runner serves. Its calls do not tell, so Gitea is asked scope by scope.

use std::sync::Arc;

use tracing::{debug, info, warn};

use super::{Lifecycle, Live};
use crate::broker::Origin;
use crate::config::Scope;

impl Lifecycle {
    /// A runner has declared itself: where it is an adopted one, it is looked for in the background.
    pub fn locate_soon(self: &Arc<Self>, live: &Arc<Live>) {
        if self.is_to_be_located(live) {
            let (this, live) = (Arc::clone(self), Arc::clone(live));
            self.running.spawn(async move { this.locate(&live).await });
        }
    }

    /// Looks for an adopted runner in all scopes that there is an API token for. What is not found, or
    /// cannot be kept, stays as it is until the runner declares itself again.
    pub(super) async fn locate(&self, live: &Live) {
        if !self.is_to_be_located(live) {
            return;
        }
        let id = live.id();
        let settings = self.settings.load_full();
        let mut scopes: Vec<_> = settings.gitea.served().map(|served| &served.scope).collect();
        // The pages of the instance show the runners of all others, too.
        scopes.sort_by_key(|scope| **scope == Scope::Instance);
        let mut all_answered = true;
        for scope in scopes.into_iter().filter(|scope| self.gitea.has_api_token(scope)) {
            match self.gitea.show_runner(scope, id).await {
                Ok(None) => {}
                // It may as well be in one that did not answer.
                Ok(Some(_)) if *scope == Scope::Instance && !all_answered => {}
                Ok(Some(_)) => return self.located(live, scope).await,
                Err(error) => {
                    debug!(%error, %scope, id, "Gitea does not tell whether a runner serves here");
                    all_answered = false;
                }
            }
        }
    }

    fn is_to_be_located(&self, live: &Live) -> bool {
        live.origin == Origin::Adopted
            && live.id() != 0
            && !self.is_draining()
            && !self.settings.load().gitea.further.is_empty()
    }

    async fn located(&self, live: &Live, scope: &Scope) {
        let before = live.scope();
        if before == *scope {
            return;
        }
        let id = live.id();
        if let Err(error) = self.store.set_scope(live.record_id, scope.clone()).await {
            warn!(%error, %scope, id, "the store did not take where an adopted runner serves");
            return;
        }
        live.set_scope(scope.clone());
        info!(%scope, %before, id, "Gitea has an adopted runner in another scope");
    }
}
