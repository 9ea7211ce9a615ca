//! A small WebDriver client: what these tests say to chromedriver, and no more.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use serde_json::{Value, json};

/// No wait is longer than this.
const PATIENCE: Duration = Duration::from_secs(30);
/// The key under which the protocol names elements.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// The keys that the tests press.
pub(crate) const TAB: char = '\u{e004}';
pub(crate) const ENTER: char = '\u{e007}';
pub(crate) const SPACE: char = ' ';
pub(crate) const END: char = '\u{e010}';
pub(crate) const BACKSPACE: char = '\u{e003}';

/// How the browser is set up.
#[derive(Clone, Copy)]
pub(crate) struct Profile {
    pub(crate) javascript: bool,
}

/// A headless Chromium with a profile of its own. It ends when it is dropped.
pub(crate) struct Browser {
    agent: ureq::Agent,
    driver: Child,
    session: String,
}

/// An element of the page that is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Element(String);

impl Browser {
    /// Starts it.
    pub(crate) fn start(profile: Profile) -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver is there: install the packages chromium and chromium-driver");
        let lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port: u16 = lines
            .map_while(Result::ok)
            .find_map(|line| {
                let (_, port) = line.split_once("successfully on port ")?;
                port.trim_end_matches('.').parse().ok()
            })
            .expect("chromedriver says its port");
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(2 * PATIENCE))
            .build()
            .into();
        let session = format!("http://127.0.0.1:{port}/session");
        let mut browser = Self { agent, driver, session };
        let mut arguments = vec!["--headless=new", "--disable-dev-shm-usage", "--hide-scrollbars"];
        // Chromium's sandbox refuses to be root's.
        if std::fs::metadata("/proc/self").unwrap().uid() == 0 {
            arguments.push("--no-sandbox");
        }
        let content = if profile.javascript { 1 } else { 2 };
        let options = json!({
            "args": arguments,
            "prefs": {"profile.managed_default_content_settings.javascript": content},
        });
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let made = browser.post("", wanted);
        browser.session = format!("{}/{}", browser.session, made["sessionId"].as_str().unwrap());
        browser.window(1280, 900, false);
        browser
    }

    /// Shows a page.
    pub(crate) fn open(&self, url: &str) {
        self.post("/url", json!({"url": url}));
    }

    /// The address that is shown.
    pub(crate) fn url(&self) -> String {
        text(&self.get("/url"))
    }

    pub(crate) fn title(&self) -> String {
        text(&self.get("/title"))
    }

    pub(crate) fn reload(&self) {
        self.post("/refresh", json!({}));
    }

    pub(crate) fn source(&self) -> String {
        text(&self.get("/source"))
    }

    /// All elements that a CSS selector names.
    pub(crate) fn all(&self, selector: &str) -> Vec<Element> {
        let found = self.post("/elements", json!({"using": "css selector", "value": selector}));
        found.as_array().unwrap().iter().map(|one| Element(text(&one[ELEMENT]))).collect()
    }

    /// The one element that a CSS selector names.
    pub(crate) fn one(&self, selector: &str) -> Element {
        let mut all = self.all(selector);
        assert_eq!(all.len(), 1, "{selector} in {}\n{}", self.url(), self.source());
        all.remove(0)
    }

    /// The link or button that is called so.
    pub(crate) fn named(&self, name: &str) -> Element {
        let is_it = |element: &Element| self.text(element) == name;
        let found = self.all("a, button").into_iter().find(is_it);
        found.unwrap_or_else(|| panic!("{name} in {}\n{}", self.url(), self.source()))
    }

    /// Clicks on the link or button that is called so, and waits for the page that it leads to.
    pub(crate) fn follow(&self, name: &str) {
        let element = self.named(name);
        self.leave(|| self.click(&element));
    }

    /// Does what leads to another page, and waits for that.
    pub(crate) fn leave(&self, act: impl FnOnce()) {
        let page = self.one("html");
        act();
        let until = Instant::now() + PATIENCE;
        let path = format!("/element/{}/name", page.0);
        while answer(self.agent.get(format!("{}{path}", self.session)).call()).is_ok() {
            assert!(Instant::now() < until, "it is still the same page: {}", self.url());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn click(&self, element: &Element) {
        self.post(&format!("/element/{}/click", element.0), json!({}));
    }

    pub(crate) fn write(&self, selector: &str, text: &str) {
        let element = self.one(selector);
        self.post(&format!("/element/{}/clear", element.0), json!({}));
        self.post(&format!("/element/{}/value", element.0), json!({"text": text}));
    }

    /// Presses keys, wherever the focus is.
    pub(crate) fn press(&self, keys: &str) {
        let strokes: Vec<_> = keys
            .chars()
            .flat_map(|key| {
                [json!({"type": "keyDown", "value": key}), json!({"type": "keyUp", "value": key})]
            })
            .collect();
        let keyboard = json!({"type": "key", "id": "keyboard", "actions": strokes});
        self.post("/actions", json!({"actions": [keyboard]}));
    }

    /// Where the focus is.
    pub(crate) fn focused(&self) -> Element {
        Element(text(&self.get("/element/active")[ELEMENT]))
    }

    /// What is seen of an element's text.
    pub(crate) fn text(&self, element: &Element) -> String {
        text(&self.get(&format!("/element/{}/text", element.0)))
    }

    /// The text of the one element that a CSS selector names.
    pub(crate) fn said(&self, selector: &str) -> String {
        self.text(&self.one(selector))
    }

    /// What a screen reader calls it.
    pub(crate) fn label(&self, element: &Element) -> String {
        text(&self.get(&format!("/element/{}/computedlabel", element.0)))
    }

    /// What a screen reader takes it for.
    pub(crate) fn role(&self, element: &Element) -> String {
        text(&self.get(&format!("/element/{}/computedrole", element.0)))
    }

    pub(crate) fn attribute(&self, element: &Element, name: &str) -> Option<String> {
        self.get(&format!("/element/{}/attribute/{name}", element.0)).as_str().map(str::to_owned)
    }

    pub(crate) fn style(&self, element: &Element, property: &str) -> String {
        text(&self.get(&format!("/element/{}/css/{property}", element.0)))
    }

    /// A cookie with its attributes, script or not.
    pub(crate) fn cookies(&self) -> Vec<Value> {
        self.get("/cookie").as_array().unwrap().clone()
    }

    /// What the browser has complained of since the last time.
    pub(crate) fn complaints(&self) -> Vec<Value> {
        self.post("/se/log", json!({"type": "browser"})).as_array().unwrap().clone()
    }

    /// A window of this size, in CSS pixels.
    pub(crate) fn window(&self, width: u32, height: u32, phone: bool) {
        let scale = if phone { 2 } else { 1 };
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            json!({"width": width, "height": height, "deviceScaleFactor": scale, "mobile": phone}),
        );
    }

    /// The scheme that the system is said to prefer: `light` or `dark`.
    pub(crate) fn scheme(&self, scheme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.devtools("Emulation.setEmulatedMedia", json!({"features": features}));
    }

    /// Widths of the window and of what is in it, in CSS pixels.
    pub(crate) fn widths(&self) -> (f64, f64) {
        let metrics = self.devtools("Page.getLayoutMetrics", json!({}));
        let width = |of: &str, key: &str| metrics[of][key].as_f64().unwrap();
        (width("cssLayoutViewport", "clientWidth"), width("cssContentSize", "width"))
    }

    /// A picture of the whole page, in PNG.
    pub(crate) fn picture(&self) -> Vec<u8> {
        let picture = self.devtools(
            "Page.captureScreenshot",
            json!({"format": "png", "captureBeyondViewport": true}),
        );
        base64::engine::general_purpose::STANDARD.decode(text(&picture["data"])).unwrap()
    }

    /// Waits until the page says so; for what happens in the background, the page is loaded anew.
    pub(crate) fn eventually(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < until, "waited in vain until {what}:\n{}", self.source());
            std::thread::sleep(Duration::from_millis(50));
            self.reload();
        }
    }

    /// What a script that is run in the page returns.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", json!({"script": script, "args": []}))
    }

    fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.post("/goog/cdp/execute", json!({"cmd": command, "params": parameters}))
    }

    fn get(&self, path: &str) -> Value {
        let asked = self.agent.get(format!("{}{path}", self.session)).call();
        answer(asked).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn post(&self, path: &str, body: Value) -> Value {
        let request = self.agent.post(format!("{}{path}", self.session));
        let request = request.header("Content-Type", "application/json");
        let asked = request.send(body.to_string());
        answer(asked).unwrap_or_else(|error| panic!("{path}: {error}"))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ends the browser, which is not the driver's child for long.
        let _ = self.agent.delete(&self.session).call();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// What the driver answers, or the error that it names.
fn answer(asked: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Value, Value> {
    let body = asked.unwrap().body_mut().with_config().limit(64 << 20).read_to_string().unwrap();
    let mut answer: Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{body}"));
    let value = answer["value"].take();
    match value.get("error") {
        None => Ok(value),
        Some(error) => Err(json!({"error": error, "message": value["message"]})),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value}")).to_owned()
}
