//! Which Gitea this is, and what its clock says.

use std::time::SystemTime;

use hyper::header::DATE;
use hyper::{HeaderMap, Method, StatusCode};
use serde::Deserialize;

use super::{GiteaClient, RestError};
use crate::connect::codec::object_from_json;

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

impl GiteaClient {
    /// Gitea's version in its own words, such as `1.26.0`; `None` where it tells nobody who is not
    /// signed in.
    pub async fn version(&self) -> Result<Option<String>, RestError> {
        #[derive(Deserialize)]
        struct Body {
            version: String,
        }

        let answer = self.ask(Method::GET, "version", None).await?;
        if matches!(answer.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Ok(None);
        }
        match object_from_json::<Body>(&answer.body) {
            Ok(body) if answer.status.is_success() => {
                Ok(Some(body.version.chars().filter(|c| !c.is_control()).take(80).collect()))
            }
            _ => Err(RestError::Unexpected(answer.status, answer.describe())),
        }
    }
}

/// Major and minor number of a version.
#[must_use]
pub fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.trim_start_matches('v').split('.').map_while(|n| n.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

/// The minor number, where it is a release of Gitea's own, or about to be one.
pub(super) fn release(version: &str) -> Option<u32> {
    let own = !version.contains("dev") && !version.contains("gitea");
    numbers(version).filter(|(major, _)| own && *major == 1).map(|(_, minor)| minor)
}

/// The time that an answer tells: `Mon, 23 Nov 2026 22:15:28 GMT`.
pub(super) fn clock_of(headers: &HeaderMap) -> Option<SystemTime> {
    let told = headers.get(DATE)?.to_str().ok()?;
    let [_, day, month, year, time, "GMT"] = told.split(' ').collect::<Vec<_>>()[..] else {
        return None;
    };
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    humantime::parse_rfc3339(&format!("{year}-{month:02}-{day}T{time}Z")).ok()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn only_a_release_says_what_gitea_can_do() {
        for (version, expected) in [
            ("1.23.8", Some(23)),
            ("v1.24.1", Some(24)),
            ("1.26.0+rc0", Some(26)),
            ("1.26.0+dev-45-g193a24c30e", None),
            ("11.0.1+gitea-1.22.0", None),
            ("1.21.11+gitea-1.21.11", None),
            ("development", None),
            ("", None),
        ] {
            assert_eq!(release(version), expected, "{version}");
        }
    }

    #[test]
    fn the_time_of_an_answer_is_read() {
        let mut headers = HeaderMap::new();
        assert_eq!(clock_of(&headers), None);
        headers.insert(DATE, "Sun, 06 Nov 1994 08:49:37 GMT".parse().unwrap());
        assert_eq!(clock_of(&headers), Some(UNIX_EPOCH + Duration::from_secs(784_111_777)));
        for wrong in ["", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun, 66 Nov 1994 08:49:37 GMT"] {
            headers.insert(DATE, wrong.parse().unwrap());
            assert_eq!(clock_of(&headers), None, "{wrong}");
        }
    }
}
