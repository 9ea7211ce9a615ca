//! Who is signed in. Sessions are in memory only: a restart ends them all.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};

use crate::broker::secret::{Digest, digest, secrets_match};
use crate::lifecycle::random_hex;

/// However busy it is, a session ends after this.
const LIFE: Duration = Duration::from_secs(12 * 60 * 60);
/// A session ends when nothing was asked for so long.
const IDLE: Duration = Duration::from_secs(60 * 60);
/// Most sessions; the oldest makes room.
const MOST: usize = 1024;
/// Most forms of a session that wait to be sent; the oldest makes room.
const MOST_FORMS: usize = 64;

/// Finds a session without its secret.
pub(super) type Key = Digest;

/// The sessions of the page.
#[derive(Default)]
pub(super) struct Sessions(Mutex<HashMap<Key, Session>>);

struct Session {
    csrf: String,
    /// Digest of the admin token that opened it.
    opened_with: Key,
    opened: Instant,
    asked: Instant,
    forms: VecDeque<String>,
    notice: Option<String>,
}

impl Session {
    fn is_over(&self, now: Instant) -> bool {
        now.duration_since(self.opened) >= LIFE || now.duration_since(self.asked) >= IDLE
    }
}

/// A session that was found.
pub(super) struct Found {
    pub(super) key: Key,
    /// What each of its forms carries.
    pub(super) csrf: String,
}

impl Sessions {
    /// Opens a session for who showed `admin_token`. Returns its secret, for the cookie.
    pub(super) fn open(&self, admin_token: &SecretString, now: Instant) -> SecretString {
        let secret = random_hex::<32>();
        let session = Session {
            csrf: random_hex::<32>(),
            opened_with: digest(admin_token.expose_secret().as_bytes()),
            opened: now,
            asked: now,
            forms: VecDeque::new(),
            notice: None,
        };
        let mut sessions = self.lock();
        sessions.retain(|_, session| !session.is_over(now));
        if sessions.len() >= MOST
            && let Some(oldest) =
                sessions.iter().min_by_key(|(_, session)| session.opened).map(|(key, _)| *key)
        {
            sessions.remove(&oldest);
        }
        sessions.insert(digest(secret.as_bytes()), session);
        secret.into()
    }

    /// The session of a cookie, if it is not over and `admin_token` is still the one it was opened with.
    pub(super) fn find(
        &self,
        cookie: &str,
        admin_token: &SecretString,
        now: Instant,
    ) -> Option<Found> {
        let key = digest(cookie.as_bytes());
        let mut sessions = self.lock();
        let session = sessions.get_mut(&key)?;
        let token_is_new =
            !secrets_match(&session.opened_with, &digest(admin_token.expose_secret().as_bytes()));
        if token_is_new || session.is_over(now) {
            sessions.remove(&key);
            return None;
        }
        session.asked = now;
        Some(Found { key, csrf: session.csrf.clone() })
    }

    /// Ends a session.
    pub(super) fn close(&self, key: &Key) {
        self.lock().remove(key);
    }

    /// Id of a form that can be sent once.
    pub(super) fn new_form(&self, key: &Key) -> String {
        let id = random_hex::<32>();
        if let Some(session) = self.lock().get_mut(key) {
            if session.forms.len() >= MOST_FORMS {
                session.forms.pop_front();
            }
            session.forms.push_back(id.clone());
        }
        id
    }

    /// Uses up a form's id. False: it was sent before.
    pub(super) fn use_up(&self, key: &Key, form: &str) -> bool {
        let mut sessions = self.lock();
        let Some(session) = sessions.get_mut(key) else { return false };
        let place = session.forms.iter().position(|id| id == form);
        place.is_some_and(|place| session.forms.remove(place).is_some())
    }

    /// Leaves a sentence for the next page of this session.
    pub(super) fn leave_notice(&self, key: &Key, notice: String) {
        if let Some(session) = self.lock().get_mut(key) {
            session.notice = Some(notice);
        }
    }

    /// The sentence that was left, once.
    pub(super) fn take_notice(&self, key: &Key) -> Option<String> {
        self.lock().get_mut(key)?.notice.take()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Session>> {
        // Every change is a single step, so a poisoned map is still whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> SecretString {
        "the-admin-token".into()
    }

    #[test]
    fn a_session_lives_while_it_is_used_and_not_for_ever() {
        let (sessions, start) = (Sessions::default(), Instant::now());
        let cookie = sessions.open(&token(), start);
        let at = |minutes: u64| {
            let now = start + Duration::from_secs(60 * minutes);
            sessions.find(cookie.expose_secret(), &token(), now).is_some()
        };
        for minutes in (0..720).step_by(59) {
            assert!(at(minutes), "{minutes}");
        }
        assert!(!at(720), "twelve hours are over");

        let cookie = sessions.open(&token(), start);
        let at = |minutes: u64| {
            let now = start + Duration::from_secs(60 * minutes);
            sessions.find(cookie.expose_secret(), &token(), now).is_some()
        };
        assert!(at(10));
        assert!(!at(70), "an hour without a request");
        assert!(!at(10), "it stays over");
    }

    #[test]
    fn another_admin_token_ends_it() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let cookie = sessions.open(&token(), now);
        assert!(sessions.find(cookie.expose_secret(), &"another".into(), now).is_none());
        assert!(sessions.find(cookie.expose_secret(), &token(), now).is_none());
        assert!(sessions.find("0123", &token(), now).is_none());
    }

    #[test]
    fn the_oldest_makes_room() {
        let (sessions, start) = (Sessions::default(), Instant::now());
        let open = |second| sessions.open(&token(), start + Duration::from_secs(second));
        let oldest = open(0);
        let second = open(1);
        for _ in 2..=MOST {
            open(2);
        }
        let now = start + Duration::from_secs(3);
        assert!(sessions.find(oldest.expose_secret(), &token(), now).is_none());
        assert!(sessions.find(second.expose_secret(), &token(), now).is_some());
    }

    #[test]
    fn a_form_is_sent_once_and_a_notice_is_told_once() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let cookie = sessions.open(&token(), now);
        let key = sessions.find(cookie.expose_secret(), &token(), now).unwrap().key;
        let form = sessions.new_form(&key);
        assert!(!sessions.use_up(&key, "another"));
        assert!(sessions.use_up(&key, &form));
        assert!(!sessions.use_up(&key, &form));

        let first = sessions.new_form(&key);
        for _ in 0..MOST_FORMS {
            sessions.new_form(&key);
        }
        assert!(!sessions.use_up(&key, &first), "forms are bounded");

        sessions.leave_notice(&key, "done".into());
        assert_eq!(sessions.take_notice(&key).as_deref(), Some("done"));
        assert_eq!(sessions.take_notice(&key), None);
        sessions.close(&key);
        assert!(sessions.find(cookie.expose_secret(), &token(), now).is_none());
    }
}
