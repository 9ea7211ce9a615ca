//! A small blocking client: every answer is taken as it is, whatever its status.

use std::time::Duration;

use serde_json::Value;
use ureq::Agent;
use ureq::http::Request;

/// An answer, read whole.
pub struct Answer {
    pub status: u16,
    pub body: String,
    /// Name and value of each cookie that was set.
    pub cookies: Vec<(String, String)>,
}

impl Answer {
    /// The body as JSON; the test ends where it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {}", self.body))
    }
}

/// A client that follows no redirect and gives up after half a minute.
pub struct Client(Agent);

impl Client {
    pub fn new() -> Self {
        Self(
            Agent::config_builder()
                .http_status_as_error(false)
                .max_redirects(0)
                .max_redirects_will_error(false)
                .max_idle_connections(0)
                .timeout_global(Some(Duration::from_secs(30)))
                .build()
                .into(),
        )
    }

    /// Sends one request; an error means that there was no answer.
    pub fn send(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Answer, ureq::Error> {
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = if body.is_empty() {
            self.0.run(request.body(())?)?
        } else {
            self.0.run(request.body(body)?)?
        };
        let cookies = response
            .headers()
            .get_all("set-cookie")
            .iter()
            .filter_map(|value| value.to_str().ok()?.split(';').next()?.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Ok(Answer {
            status: response.status().as_u16(),
            body: response.body_mut().read_to_string()?,
            cookies,
        })
    }

    /// Calls a method of the runner service with a JSON body, as a person would with curl.
    pub fn rpc(&self, base: &str, method: &str, body: &Value) -> Answer {
        let url = format!("{base}/api/actions/runner.v1.RunnerService/{method}");
        self.send("POST", &url, &[("content-type", "application/json")], &body.to_string())
            .unwrap_or_else(|error| panic!("{url} gave no answer: {error}"))
    }
}
