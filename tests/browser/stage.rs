//! A whole broker with its page, and a browser before it.

use std::path::PathBuf;

use runner_broker::lifecycle::{By, Issued};
use runner_broker::sandbox::gitea::StandInGitea;
use runner_broker::sandbox::runner::{RegisterOptions, Runner, StandInRunner};
use secrecy::SecretString;

use crate::driver::{Browser, Profile};
use crate::support::{Broker, Site, eventually, gitea};

pub(crate) const ADMIN_TOKEN: &str = "admin-token-of-the-tests-0123456789abcdef";

pub(crate) struct Stage {
    pub(crate) gitea: StandInGitea,
    pub(crate) broker: Broker,
    pub(crate) browser: Browser,
    _site: Site,
}

impl Stage {
    pub(crate) async fn set(profile: Profile) -> Self {
        let with_token = |site: Site| {
            site.write_secret("admin_token", ADMIN_TOKEN);
            let file = site.path("admin_token").to_str().unwrap().to_owned();
            site.set("admin.token_file", &file)
        };
        Self::set_with(profile, with_token).await
    }

    /// The same with other settings; without any, the page is off.
    pub(crate) async fn set_with(profile: Profile, change: impl FnOnce(Site) -> Site) -> Self {
        let gitea = gitea();
        let site = change(Site::new(&gitea));
        let broker = Broker::start(&site).await;
        eventually("Gitea was asked", async || broker.lifecycle.gitea.is_up()).await;
        Self { gitea, broker, browser: Browser::start(profile), _site: site }
    }

    /// The address of a page, from the root on.
    pub(crate) fn at(&self, path: &str) -> String {
        format!("http://{}/{path}", self.broker.admin)
    }

    pub(crate) fn sign_in(&self) {
        self.browser.open(&self.at(""));
        self.browser.write("#token", ADMIN_TOKEN);
        self.browser.follow("Sign in");
        assert_eq!(self.browser.said("h1"), "Enrollment tokens");
    }

    /// A runner that registers with this secret, and has spoken.
    pub(crate) async fn runner(&self, secret: &SecretString, name: &str) -> Runner {
        let program = StandInRunner::new(&self.broker.url);
        let runner = program.register(&RegisterOptions::new(secret.clone(), name)).await.unwrap();
        runner.declare(&["host"]).await.unwrap();
        runner
    }

    /// A token that was not made by the page.
    pub(crate) async fn token(
        &self,
        change: impl FnOnce(&mut runner_broker::broker::token::Draft),
    ) -> Issued {
        let mut draft = runner_broker::broker::token::Draft {
            kind: runner_broker::broker::token::Kind::Reusable,
            description: String::new(),
            policy: runner_broker::broker::token::Policy::of_scope(
                runner_broker::config::Scope::Instance,
            ),
        };
        change(&mut draft);
        let by = By { actor: "socket".into(), peer: None };
        self.broker.lifecycle.create_token(draft, &by).await.unwrap()
    }
}

/// Keeps a picture where someone wants to look at it.
pub(crate) fn keep_picture(browser: &Browser, name: &str) {
    if let Some(folder) = std::env::var_os("BROWSER_SCREENSHOTS") {
        let folder = PathBuf::from(folder);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{name}.png")), browser.picture()).unwrap();
    }
}
