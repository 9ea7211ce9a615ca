//! From when until when a certificate holds.

use std::time::{Duration, SystemTime};

use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

/// A certificate that ends before that is told of: an automatic renewal would have come by then.
const SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// From when until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

/// How a certificate stands that needs a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expiry {
    /// It does not hold yet.
    NotYet,
    /// It ends in so many days.
    Soon(u64),
    /// It has ended.
    Over,
}

impl Validity {
    /// `None` where it is no certificate.
    pub(super) fn of(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let validity = certificate.validity();
        Some(Self { not_before: point(validity.not_before), not_after: point(validity.not_after) })
    }
}

/// How a certificate stands at this time; `None`: well.
pub(crate) fn expiry(validity: Validity, now: SystemTime) -> Option<Expiry> {
    if validity.not_before > now {
        return Some(Expiry::NotYet);
    }
    match validity.not_after.duration_since(now) {
        Err(_) => Some(Expiry::Over),
        Ok(left) => (left < SOON).then_some(Expiry::Soon(left.as_secs() / 86_400)),
    }
}

impl Expiry {
    /// What is said of such a certificate, after its name or file.
    pub(crate) fn sentence(self) -> String {
        match self {
            Self::NotYet => "is not valid yet: is this machine's clock right?".into(),
            Self::Soon(0) => "expires in less than a day".into(),
            Self::Soon(1) => "expires in 1 day".into(),
            Self::Soon(days) => format!("expires in {days} days"),
            Self::Over => "has expired".into(),
        }
    }
}

/// What lies before 1970 is long over, whatever it is.
fn point(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_two_weeks_before() {
        let day = Duration::from_secs(86_400);
        let now = SystemTime::UNIX_EPOCH + 20_000 * day;
        let until = |not_after| expiry(Validity { not_before: now - day, not_after }, now);
        assert_eq!(until(now + 14 * day), None);
        assert_eq!(until(now + 13 * day + day / 2), Some(Expiry::Soon(13)));
        assert_eq!(until(now + day / 2), Some(Expiry::Soon(0)));
        assert_eq!(until(now - Duration::from_secs(1)), Some(Expiry::Over));
        let later = Validity { not_before: now + day, not_after: now + 99 * day };
        assert_eq!(expiry(later, now), Some(Expiry::NotYet));
    }

    #[test]
    fn the_certificate_says_it() {
        let mut params = rcgen::CertificateParams::new(["a".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let validity = Validity::of(certificate.der()).unwrap();
        let after = validity.not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(after.as_secs(), 1_609_459_200);
        assert_eq!(
            validity.not_after.duration_since(validity.not_before).unwrap().as_secs(),
            366 * 86_400
        );
        assert_eq!(Validity::of(b"\x30\x03\x01\x01\xff"), None);
    }
}
