//! All metrics, in a registry of their own that is handed to whoever counts.
//!
//! Every label takes its values from a closed set or from the settings; none from what a client sends.

use std::time::{Duration, SystemTime};

use hyper::StatusCode;
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::broker::Reason;
use crate::broker::token::State;
use crate::config::Gitea;
use crate::net::UpstreamErrorKind;
use crate::proxy::{Limit, Route};

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// How a Register ended (`registrations_total{outcome}`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistrationOutcome {
    /// Registered, and answered.
    Registered,
    /// Answered from the record, to a runner that had lost its answer.
    Repeated,
    /// Registered anew behind its old credentials.
    Revived,
    /// Refused by the broker.
    Rejected,
    /// Refused by Gitea.
    Refused,
    /// Gitea could not be asked.
    Unreachable,
    /// Gitea may have acted; to be settled.
    Unclear,
    /// The broker could not keep the record.
    Failed,
}

impl RegistrationOutcome {
    const ALL: [Self; 8] = [
        Self::Registered,
        Self::Repeated,
        Self::Revived,
        Self::Rejected,
        Self::Refused,
        Self::Unreachable,
        Self::Unclear,
        Self::Failed,
    ];

    /// The label's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Repeated => "repeated",
            Self::Revived => "revived",
            Self::Rejected => "rejected",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Unclear => "unclear",
            Self::Failed => "failed",
        }
    }
}

/// Why a Register was refused by the broker (`enrollment_rejections_total{reason}`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// No such enrollment token, or a wrong one.
    Token,
    /// Gitea's own registration token was presented.
    RegistrationToken,
    /// The token is switched off.
    Disabled,
    /// Its time is over.
    Expired,
    /// It has admitted as often as it may.
    UsedUp,
    /// As many runners as it allows are alive.
    MaxRunners,
    /// It does not allow a label.
    Label,
    /// It does not allow the name.
    Name,
    /// It is for ephemeral runners.
    NotEphemeral,
    /// It is not for that address.
    Address,
    /// Its scope is not served any more.
    Scope,
    /// Too many wrong tokens came from there.
    Throttled,
    /// A name or label that cannot be.
    Request,
    /// A body, a codec or a path that cannot be read.
    Malformed,
    /// The broker is ending.
    Draining,
    /// Too many at once.
    Overload,
}

impl Rejection {
    const ALL: [Self; 16] = [
        Self::Token,
        Self::RegistrationToken,
        Self::Disabled,
        Self::Expired,
        Self::UsedUp,
        Self::MaxRunners,
        Self::Label,
        Self::Name,
        Self::NotEphemeral,
        Self::Address,
        Self::Scope,
        Self::Throttled,
        Self::Request,
        Self::Malformed,
        Self::Draining,
        Self::Overload,
    ];

    /// The label's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::RegistrationToken => "registration_token",
            Self::Disabled => "disabled",
            Self::Expired => "expired",
            Self::UsedUp => "used_up",
            Self::MaxRunners => "max_runners",
            Self::Label => "label",
            Self::Name => "name",
            Self::NotEphemeral => "not_ephemeral",
            Self::Address => "address",
            Self::Scope => "scope",
            Self::Throttled => "throttled",
            Self::Request => "request",
            Self::Malformed => "malformed",
            Self::Draining => "draining",
            Self::Overload => "overload",
        }
    }
}

/// How a deregistration ended (`deregistrations_total{outcome}`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeregistrationOutcome {
    /// Deleted in Gitea.
    Deleted,
    /// Gitea did not know it any more.
    AlreadyGone,
    /// Kept for the next runner of its kind: no API token.
    Parked,
    /// Left: it has a task in hand.
    Busy,
    /// Left: an admin switched it off in Gitea.
    SwitchedOff,
    /// Left: no API token.
    NoApiToken,
    /// Left: Gitea refused.
    Refused,
    /// Left: Gitea could not be asked.
    Unreachable,
}

impl DeregistrationOutcome {
    const ALL: [Self; 8] = [
        Self::Deleted,
        Self::AlreadyGone,
        Self::Parked,
        Self::Busy,
        Self::SwitchedOff,
        Self::NoApiToken,
        Self::Refused,
        Self::Unreachable,
    ];

    /// The label's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::AlreadyGone => "already_gone",
            Self::Parked => "parked",
            Self::Busy => "busy",
            Self::SwitchedOff => "switched_off",
            Self::NoApiToken => "no_api_token",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
        }
    }
}

/// The registry and every metric in it.
pub struct Metrics {
    registry: Registry,
    /// 1 where the last contact with Gitea brought an answer.
    pub gitea_up: IntGauge,
    /// 1 where the API token did its work at the last probe.
    pub api_token_valid: IntGaugeVec,
    /// 1 where the store takes writes.
    pub store_writable: IntGauge,
    /// Seconds from a Register's arrival to its end.
    pub registration_duration: Histogram,
    /// Intents whose outcome is not known.
    pub unsettled_registrations: IntGauge,
    /// Live runners by scope and state.
    pub runners: IntGaugeVec,
    registrations: IntCounterVec,
    deregistrations: IntCounterVec,
    rejections: IntCounterVec,
    upstream_errors: Vec<IntCounter>,
    limits: Vec<IntCounter>,
    requests: Vec<[IntCounter; CLASSES.len()]>,
    durations: Vec<Histogram>,
    enrollment_tokens: IntGaugeVec,
    next_expiry: Gauge,
    certificate_expiry: GaugeVec,
    handshake_failures: IntCounterVec,
}

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    /// Only where two metrics have one name, a mistake of ours that every test would see.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new_custom(Some("runner_broker".into()), None)?;
        // The process metrics keep their conventional names, so they bypass the prefix.
        let build_info = GaugeVec::new(
            Opts::new("build_info", "The version of the broker; always 1."),
            &["version"],
        )?;
        build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
        registry.register(Box::new(build_info))?;

        let gitea_up = int_gauge(
            &registry,
            "gitea_up",
            "Whether the last contact with Gitea brought an answer.",
        )?;
        let store_writable =
            int_gauge(&registry, "store_writable", "Whether the store takes writes.")?;
        let unsettled_registrations = int_gauge(
            &registry,
            "unsettled_registrations",
            "Registrations of which it is not known whether Gitea acted.",
        )?;
        let api_token_valid = int_gauges(
            &registry,
            "api_token_valid",
            "Whether the API token may do for the scope what the broker needs, as of the last try.",
            &["scope"],
        )?;
        let runners = int_gauges(&registry, "runners", "Registered runners.", &["scope", "state"])?;
        let enrollment_tokens =
            int_gauges(&registry, "enrollment_tokens", "Enrollment tokens.", &["state"])?;
        let next_expiry = Gauge::new(
            "enrollment_token_next_expiry_timestamp_seconds",
            "When the next of the active enrollment tokens that an admin made or declared expires; +Inf where none does.",
        )?;
        registry.register(Box::new(next_expiry.clone()))?;
        let certificate_expiry = GaugeVec::new(
            Opts::new(
                "tls_certificate_expiry_timestamp_seconds",
                "When a certificate that the broker shows expires: to runners, to admins, to Gitea.",
            ),
            &["certificate"],
        )?;
        registry.register(Box::new(certificate_expiry.clone()))?;
        let handshake_failures = counters(
            &registry,
            "tls_handshake_failures_total",
            "Connections to a listener that speaks TLS that did not come in.",
            &["listener"],
        )?;
        let registrations = counters(
            &registry,
            "registrations_total",
            "Register calls by how they ended.",
            &["scope", "outcome"],
        )?;
        let deregistrations = counters(
            &registry,
            "deregistrations_total",
            "Attempts to delete a runner in Gitea.",
            &["reason", "outcome"],
        )?;
        let rejections = counters(
            &registry,
            "enrollment_rejections_total",
            "Register calls that the broker refused.",
            &["reason"],
        )?;
        let upstream_errors = counters(
            &registry,
            "upstream_errors_total",
            "Requests to Gitea that brought no answer.",
            &["kind"],
        )?;
        let limits = counters(
            &registry,
            "limits_hit_total",
            "How often a client was over a limit, by the name of the setting.",
            &["limit"],
        )?;
        let requests = counters(
            &registry,
            "requests_total",
            "Requests of runners and jobs, by the class of the answer's status.",
            &["route", "code"],
        )?;
        let registration_duration = Histogram::with_opts(
            HistogramOpts::new(
                "registration_duration_seconds",
                "From a Register's arrival to its end.",
            )
            .buckets(vec![0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]),
        )?;
        registry.register(Box::new(registration_duration.clone()))?;
        let durations = HistogramVec::new(
            HistogramOpts::new(
                "request_duration_seconds",
                "From a request's head to its answer's head.",
            )
            .buckets(vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0]),
            &["route"],
        )?;
        registry.register(Box::new(durations.clone()))?;

        // Every series is there from the start, so that a rate over it is right from its first event.
        for reason in Reason::ALL {
            for outcome in DeregistrationOutcome::ALL {
                deregistrations.with_label_values(&[reason.as_str(), outcome.as_str()]);
            }
        }
        for reason in Rejection::ALL {
            rejections.with_label_values(&[reason.as_str()]);
        }
        Ok(Self {
            gitea_up,
            api_token_valid,
            store_writable,
            registration_duration,
            unsettled_registrations,
            runners,
            registrations,
            deregistrations,
            rejections,
            upstream_errors: UpstreamErrorKind::ALL
                .iter()
                .map(|kind| upstream_errors.with_label_values(&[kind.as_str()]))
                .collect(),
            limits: Limit::ALL
                .iter()
                .map(|limit| limits.with_label_values(&[limit.as_str()]))
                .collect(),
            requests: Route::ALL
                .iter()
                .map(|route| {
                    CLASSES.map(|class| requests.with_label_values(&[route.as_str(), class]))
                })
                .collect(),
            durations: Route::ALL
                .iter()
                .map(|route| durations.with_label_values(&[route.as_str()]))
                .collect(),
            enrollment_tokens,
            next_expiry,
            certificate_expiry,
            handshake_failures,
            registry,
        })
    }

    /// Begins the series of the scopes that the settings name.
    pub fn add_scopes(&self, gitea: &Gitea) {
        for served in gitea.served() {
            let scope = served.scope.to_string();
            for outcome in RegistrationOutcome::ALL {
                self.registrations.with_label_values(&[scope.as_str(), outcome.as_str()]);
            }
        }
    }

    /// Counts a Register's end.
    pub fn registration(&self, scope: &str, outcome: RegistrationOutcome, took: Duration) {
        self.registrations.with_label_values(&[scope, outcome.as_str()]).inc();
        self.registration_duration.observe(took.as_secs_f64());
    }

    /// Counts a Register that the broker refused.
    pub fn rejection(&self, reason: Rejection) {
        self.rejections.with_label_values(&[reason.as_str()]).inc();
    }

    /// Counts an attempt to deregister.
    pub fn deregistration(&self, reason: Reason, outcome: DeregistrationOutcome) {
        self.deregistrations.with_label_values(&[reason.as_str(), outcome.as_str()]).inc();
    }

    /// Counts a request to Gitea that brought no answer.
    pub fn upstream_error(&self, kind: UpstreamErrorKind) {
        self.upstream_errors[kind as usize].inc();
    }

    /// Counts a client that was over a limit.
    pub fn limit(&self, limit: Limit) {
        self.limits[limit as usize].inc();
    }

    /// Counts an answered request; `took` is the time to the answer's head.
    pub fn request(&self, route: Route, status: StatusCode, took: Duration) {
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1;
        self.requests[route as usize][class].inc();
        self.durations[route as usize].observe(took.as_secs_f64());
    }

    /// Sets how many enrollment tokens are in a state.
    pub fn set_enrollment_tokens(&self, state: State, count: i64) {
        self.enrollment_tokens.with_label_values(&[state.as_str()]).set(count);
    }

    /// Sets when the next of the active enrollment tokens expires; `None`: none does.
    pub fn set_next_expiry(&self, at: Option<SystemTime>) {
        let since = at.map(|at| at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
        self.next_expiry.set(since.map_or(f64::INFINITY, |since| since.as_secs_f64()));
    }

    /// Sets when a certificate expires.
    pub fn set_certificate_expiry(&self, certificate: &str, at: SystemTime) {
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.certificate_expiry.with_label_values(&[certificate]).set(since.as_secs_f64());
    }

    /// Counts the connections to a listener that did not come in by TLS.
    #[must_use]
    pub fn handshake_failures(&self, listener: &str) -> IntCounter {
        self.handshake_failures.with_label_values(&[listener])
    }

    /// The text that Prometheus scrapes.
    ///
    /// # Errors
    /// Where a metric cannot be encoded.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        let mut text = Vec::with_capacity(16 * 1024);
        let encoder = TextEncoder::new();
        encoder.encode(&self.registry.gather(), &mut text)?;
        let process = Registry::new();
        process.register(Box::new(ProcessCollector::for_self()))?;
        encoder.encode(&process.gather(), &mut text)?;
        String::from_utf8(text).map_err(|error| prometheus::Error::Msg(error.to_string()))
    }
}

fn int_gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    let gauge = IntGauge::new(name, help)?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

fn int_gauges(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, prometheus::Error> {
    let gauges = IntGaugeVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(gauges.clone()))?;
    Ok(gauges)
}

fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(counters.clone()))?;
    Ok(counters)
}
