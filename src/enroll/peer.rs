//! Who registers runners, answers for them and deregisters them: a broker, or Gitea itself.

use hyper::HeaderMap;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroize;

use super::given::Wanted;
use super::labels;
use crate::broker::Credentials;
use crate::broker::deregistration::{Deletion, Proof, Step, after_delete, before_delete};
use crate::connect::messages::RegisterRequest;
use crate::connect::{Code, Codec, ConnectError, encode, wiped};
use crate::credential::RunnerFile;
use crate::gitea::{
    CallError, DeleteAnswer, GiteaClient, RegisterAnswer, RegisterFailure, RestError, token_scope,
};
use crate::net::upstream::{CLIENT_CERTIFICATE, Upstream};

/// Shown in Gitea's list until the runner declares its own.
const VERSION: &str = concat!("runner-broker ", env!("CARGO_PKG_VERSION"));

/// A broker, or Gitea itself. Its texts name the wrapper's own settings.
#[derive(Debug)]
pub struct Peer {
    client: GiteaClient,
    wanted: Wanted,
}

/// What became of a runner's credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// They are good.
    Known,
    /// They are good for nothing any more.
    Unknown,
    /// That cannot be told now; a sentence says why.
    Unclear(String),
}

/// Why there is no runner.
#[derive(Debug)]
pub(super) enum RegisterError {
    /// It may be asked again.
    Again(String),
    /// The token or its policy does not allow it.
    Forbidden(String),
    /// The request or something else must be changed first.
    Wrong(String),
    /// Gitea may have registered it, and asking again could make a second one.
    Unclear(String),
}

/// What became of a deregistration.
#[derive(Debug)]
pub(super) enum Leaving {
    /// The runner is gone, or the broker sees to it.
    Gone,
    /// It stays; a sentence says why, and what to do.
    Stays(String),
    /// It may be asked again.
    Again(String),
}

impl Peer {
    /// Prepares the way; nothing is dialled yet.
    ///
    /// # Errors
    /// Nothing can be trusted by `--ca-file`, or on this system.
    pub fn new(wanted: Wanted) -> Result<Self, String> {
        let upstream = Upstream::new(&wanted.gitea)
            .map_err(|error| in_our_words(&error.to_string(), wanted.direct))?;
        let client = GiteaClient::new(upstream, &wanted.gitea);
        Ok(Self { client, wanted })
    }

    /// What it is asked for.
    #[must_use]
    pub fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// Whether it answers, and Gitea behind it.
    pub(super) async fn ping(&self) -> Result<(), String> {
        self.client.ping().await.map_err(|error| self.told(error))
    }

    /// What became of a runner's credentials.
    pub async fn standing(&self, file: &RunnerFile) -> Standing {
        match self.client.show(&credentials(file)).await {
            Err(CallError::Unregistered) => Standing::Unknown,
            Err(CallError::Refused(error)) if is_passing(error.code) => {
                Standing::Unclear(self.told(CallError::Refused(error)))
            }
            // Gitea has seen that no such task is theirs: so it knows them.
            Ok(()) | Err(CallError::Refused(_)) => Standing::Known,
            Err(error) => Standing::Unclear(self.told(error)),
        }
    }

    /// Registers a runner: once, and once more where Gitea refused the registration token and an API token
    /// gets a later one.
    pub(super) async fn register(&self) -> Result<RunnerFile, RegisterError> {
        let wanted = &self.wanted;
        let scope = &wanted.gitea.default.scope;
        let token = self.client.registration_token(scope).await;
        let token = token.map_err(|error| self.not_minted(&error))?;
        let mut answer = self.register_with(&token).await;
        if let Err(RegisterFailure::Refused { refusal, .. }) = &answer
            && refusal.is_of_token()
            && let Some(later) = self
                .client
                .renewed_token(scope, &token)
                .await
                .map_err(|error| self.not_minted(&error))?
        {
            answer = self.register_with(&later).await;
        }
        let runner = answer.map_err(|failure| self.register_failed(failure))?.runner;
        Ok(RunnerFile {
            id: runner.id,
            uuid: runner.uuid,
            name: if runner.name.is_empty() { wanted.name.clone() } else { runner.name },
            token: runner.token.into(),
            address: wanted.address.clone(),
            labels: wanted.labels.clone(),
            ephemeral: wanted.ephemeral,
        })
    }

    async fn register_with(&self, token: &SecretString) -> Result<RegisterAnswer, RegisterFailure> {
        let wanted = &self.wanted;
        let mut request = RegisterRequest {
            name: wanted.name.clone(),
            token: token.expose_secret().to_owned(),
            version: VERSION.to_owned(),
            labels: labels::names(&wanted.labels),
            ephemeral: wanted.ephemeral,
        };
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, Codec::Proto.header_value());
        headers.insert("connect-protocol-version", HeaderValue::from_static("1"));
        let body = wiped(encode(Codec::Proto, &request));
        request.token.zeroize();
        self.client.register(Codec::Proto, body, headers, token).await
    }

    /// Deregisters a runner, or sees that it is gone.
    pub(super) async fn deregister(&self, file: &RunnerFile) -> Leaving {
        if self.wanted.direct {
            return self.delete(file).await.unwrap_or_else(|leaving| leaving);
        }
        let said = match self.client.deregister(&credentials(file)).await {
            Ok(()) => return Leaving::Gone,
            // A proxy in front may say so too, while the broker is being restarted.
            Err(CallError::Garbage(text)) => {
                return Leaving::Again(format!(
                    "this is not the answer of a broker ({text}); where the address is Gitea's, use \
                     --direct"
                ));
            }
            Err(CallError::Refused(error)) if !is_passing(error.code) => error,
            Err(error) => return Leaving::Again(self.told(error)),
        };
        if said.code != Code::Unauthenticated {
            return Leaving::Stays(said.message);
        }
        // The broker has no record of it; whether Gitea knows it, the broker's way through tells.
        match self.standing(file).await {
            Standing::Unknown => Leaving::Gone,
            Standing::Known => Leaving::Stays(said.message),
            Standing::Unclear(why) => Leaving::Again(why),
        }
    }

    /// Straight at Gitea: no id is deleted that the runner's own credentials do not name.
    async fn delete(&self, file: &RunnerFile) -> Result<Leaving, Leaving> {
        let scope = &self.wanted.gitea.default.scope;
        let needs = token_scope(scope);
        if !self.client.has_api_token(scope) {
            return Err(Leaving::Stays(format!(
                "there is no Gitea API token to delete it with: set GITEA_API_TOKEN_FILE to a file \
                 with one of scope {needs}, and the runner is deleted when the command ends"
            )));
        }
        match before_delete(self.prove(file).await?, file.id) {
            Step::Delete => {}
            Step::OtherId(other) => {
                return Err(Leaving::Stays(format!(
                    "Gitea knows it by id {other}, its file says {}: delete it on Gitea's page",
                    file.id
                )));
            }
            Step::Gone | Step::NotPermitted => return Ok(Leaving::Gone),
        }
        let (deletion, again) = match self.client.delete_runner(scope, file.id).await {
            Ok(DeleteAnswer::Deleted) => (Deletion::Deleted, None),
            Ok(DeleteAnswer::NotFound) => (Deletion::NotFound, Some(self.prove(file).await?)),
            Err(error) => return Err(self.rest_failed(&error)),
        };
        match after_delete(deletion, again) {
            Step::Gone => Ok(Leaving::Gone),
            _ => Err(Leaving::Stays(format!(
                "Gitea hides it from the API token: give one of scope {needs}, of a user who \
                 administers {scope}, or set --scope to where the registration token is from"
            ))),
        }
    }

    async fn prove(&self, file: &RunnerFile) -> Result<Proof, Leaving> {
        // Declare replaces the labels, so they go along as they are.
        let names = labels::names(&file.labels);
        match self.client.declare(&credentials(file), VERSION, &names).await {
            Ok(runner) => Ok(Proof::Id(runner.id)),
            Err(CallError::Unregistered) => Ok(Proof::Unregistered),
            Err(error) => Err(Leaving::Again(self.told(error))),
        }
    }

    fn register_failed(&self, failure: RegisterFailure) -> RegisterError {
        match failure {
            RegisterFailure::NotSent(error) => RegisterError::Again(self.words(&error.to_string())),
            RegisterFailure::Refused { error, .. } => {
                let ConnectError { code, message, .. } = error;
                match code {
                    // A proxy in front, or a limit that others use up at the moment.
                    _ if is_passing(code) => RegisterError::Again(message),
                    Code::Unauthenticated | Code::PermissionDenied => {
                        RegisterError::Forbidden(message)
                    }
                    // Gitea tells of its token by a text alone.
                    Code::Unknown => RegisterError::Forbidden(message),
                    _ => RegisterError::Wrong(message),
                }
            }
            RegisterFailure::Unclear(text) if self.wanted.direct => {
                RegisterError::Unclear(self.words(&text))
            }
            // The broker hands the same identity to who asks again.
            RegisterFailure::Unclear(text) => RegisterError::Again(self.words(&text)),
        }
    }

    fn not_minted(&self, error: &RestError) -> RegisterError {
        let text = self.words(&error.to_string());
        match error {
            RestError::Unreachable(_) | RestError::Unexpected(..) => RegisterError::Again(text),
            _ => RegisterError::Wrong(text),
        }
    }

    fn rest_failed(&self, error: &RestError) -> Leaving {
        let text = self.words(&error.to_string());
        match error {
            RestError::Unreachable(_) | RestError::Unexpected(..) | RestError::Busy { .. } => {
                Leaving::Again(text)
            }
            _ => Leaving::Stays(text),
        }
    }

    fn told(&self, error: CallError) -> String {
        match error {
            CallError::Refused(error) => error.message,
            other => self.words(&other.to_string()),
        }
    }

    fn words(&self, text: &str) -> String {
        in_our_words(text, self.wanted.direct)
    }
}

/// Errors of the client and of files name the broker's settings; here they go by other names.
pub(super) fn in_our_words(text: &str, direct: bool) -> String {
    const NAMES: [(&str, &str); 8] = [
        (
            CLIENT_CERTIFICATE,
            "where it asks for a client certificate, dial a proxy that shows one: neither this command \
             nor a runner can",
        ),
        ("gitea.registration_token_file", "GITEA_RUNNER_REGISTRATION_TOKEN_FILE"),
        ("gitea.api_token_file", "GITEA_API_TOKEN_FILE"),
        ("gitea.ca_file", "--ca-file"),
        ("gitea.scope", "--scope"),
        ("gitea.url", "GITEA_INSTANCE_URL"),
        ("credentials.uid and credentials.gid name", "--uid and --gid name"),
        ("change credentials.path", "name another path for the runner file"),
    ];
    let named = NAMES.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
    if direct { named } else { named.replace("is Gitea", "is the broker") }
}

/// What another moment may answer otherwise.
fn is_passing(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::ResourceExhausted
            | Code::DeadlineExceeded
            | Code::Canceled
            | Code::Aborted
    )
}

fn credentials(file: &RunnerFile) -> Credentials {
    Credentials { id: file.id, uuid: file.uuid.clone(), token: file.token.clone() }
}
