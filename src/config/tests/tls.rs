//! The files of certificates: which must be there together, and what is looked at.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;

use super::super::load_admin;
use super::Case;

const SECTIONS: [&str; 2] = ["listen.tls", "admin.tls"];

/// A certificate and its key in the case's folder.
fn files(case: &Case, until: i32) -> (String, String) {
    let mut params = rcgen::CertificateParams::new(["broker".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(until, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = params.self_signed(&key).unwrap();
    let (cert, key) =
        (case.file("tls.crt", &cert.pem()), case.file("tls.key", &key.serialize_pem()));
    set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    (cert, key)
}

#[test]
fn sections_and_variables_name_the_same() {
    let case = Case::minimal();
    let (cert, key) = files(&case, 2090);
    let settings = case.good().settings;
    assert!(settings.listen.tls.is_none() && settings.listen.scheme() == "http");
    let toml = format!(
        "[listen.tls]\ncert = \"{cert}\"\nkey = \"{key}\"\n[admin]\ntls.cert = \"{cert}\"\n\
         tls.key = \"/replaced\"\n"
    );
    let loaded = case
        .toml(&toml)
        .env("RUNNER_BROKER__ADMIN__TLS__KEY", &key)
        .env("RUNNER_BROKER__LISTEN__TLS__CLIENT_CA", &cert)
        .env("RUNNER_BROKER__GITEA__URL", "https://gitea")
        .env("RUNNER_BROKER__GITEA__CLIENT_CERT_FILE", &cert)
        .set("gitea.client_key_file", &key)
        .good();
    assert_eq!(loaded.warnings, Vec::<String>::new());
    let settings = loaded.settings;
    let pair = settings.listen.tls.as_ref().unwrap().pair.clone();
    assert_eq!((pair.cert.to_str(), pair.key.to_str()), (Some(&*cert), Some(&*key)));
    assert_eq!(settings.listen.tls.as_ref().unwrap().client_ca, Some(cert.into()));
    assert_eq!(settings.admin.tls.unwrap().pair, pair);
    assert_eq!(settings.gitea.client, Some(pair));
    assert_eq!(settings.listen.scheme(), "https");
}

#[test]
fn what_is_no_section_and_what_is_unknown_in_it_is_told() {
    let file = |case: &Case| format!("file {}/config.toml", case.folder.path().display());
    let case = Case::minimal().toml("[listen]\ntls = true\n");
    let line = format!("listen.tls ({}): is a section: write [listen.tls]", file(&case));
    assert!(case.load().unwrap_err().to_string().starts_with(&line));
    let case = Case::minimal().toml("[admin.tls]\ncerts = \"/x\"\n");
    let line =
        format!("admin.tls.certs ({}): is unknown: did you mean admin.tls.cert?", file(&case));
    assert_eq!(case.load().unwrap_err().to_string(), line);
    Case::minimal().env("RUNNER_BROKER__LISTEN__TLS__KEYS", "/x").complains(
        "listen.tls.keys (variable RUNNER_BROKER__LISTEN__TLS__KEYS): is unknown: did you mean \
         RUNNER_BROKER__LISTEN__TLS__KEY?",
    );
}

#[test]
fn none_is_of_use_without_the_others() {
    for section in SECTIONS {
        Case::minimal().set(&format!("{section}.cert"), "/x").complains(&format!(
            "{section}.cert (flag --set): is of no use without its private key: set {section}.key too"
        ));
        Case::minimal().set(&format!("{section}.key"), "/x").complains(&format!(
            "{section}.key (flag --set): is of no use without its certificate: set {section}.cert too"
        ));
        Case::minimal().set(&format!("{section}.client_ca"), "/x").complains(&format!(
            "{section}.client_ca (flag --set): is of no use without a certificate of the broker's own: \
             set {section}.cert and {section}.key too"
        ));
        // One that is wrong is there all the same.
        let case = Case::minimal().set(&format!("{section}.cert"), "x");
        case.set(&format!("{section}.key"), "/x").complains(&format!(
            "{section}.cert (flag --set): \"x\" is no absolute path: begin it with /"
        ));
    }
    Case::minimal().set("gitea.client_cert_file", "/x").complains(
        "gitea.client_cert_file (flag --set): is of no use without its private key: set \
         gitea.client_key_file too",
    );
}

#[test]
fn all_mistakes_in_the_files_are_told_at_once() {
    let case = Case::minimal();
    let (cert, _) = files(&case, 2090);
    let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let (other, junk) = (case.file("other.key", &other), case.file("junk", "junk"));
    let case = case
        .env("RUNNER_BROKER__GITEA__URL", "https://gitea")
        .set("listen.tls.cert", &cert)
        .set("listen.tls.key", &other)
        .set("listen.tls.client_ca", &junk)
        .set("admin.tls.cert", &junk)
        .set("admin.tls.key", &junk)
        .set("gitea.client_cert_file", "/nowhere/tls.crt")
        .set("gitea.client_key_file", &other);
    let bad = case.bad();
    let begins = [
        "listen.tls.key (flag --set): DIR/other.key does not belong to the certificate in DIR/tls.crt",
        "listen.tls.client_ca (flag --set): DIR/junk holds no certificate",
        "admin.tls.cert (flag --set): DIR/junk holds no certificate",
        "admin.tls.key (flag --set): DIR/junk holds no private key",
        "gitea.client_cert_file (flag --set): /nowhere/tls.crt cannot be read: /nowhere is missing",
    ];
    assert_eq!(bad.len(), begins.len(), "{bad:#?}");
    for (line, begin) in bad.iter().zip(begins) {
        assert!(line.starts_with(begin), "{line}");
    }
    // The commands need none of the files.
    let (admin, problems) = load_admin(&case.sources());
    assert!(admin.tls.is_some() && problems.is_empty(), "{problems:?}");
}

#[test]
fn what_is_a_risk_is_warned_of() {
    let case = Case::minimal();
    let (cert, key) = files(&case, 2020);
    set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    let loaded = case
        .set("admin.tls.cert", &cert)
        .set("admin.tls.key", &key)
        .set("gitea.client_cert_file", &cert)
        .set("gitea.client_key_file", &key)
        .good();
    let expired =
        format!("cert: the certificate in {cert} has expired: put a new one in its place");
    assert_eq!(loaded.warnings.len(), 5, "{:#?}", loaded.warnings);
    assert_eq!(loaded.warnings[0], format!("admin.tls.{expired}"));
    let open = format!("admin.tls.key: {key} can be read by every user: take that away with chmod");
    assert!(loaded.warnings[1].starts_with(&open), "{:#?}", loaded.warnings);
    assert!(loaded.warnings[2].starts_with("gitea.client_cert_file: is shown over https alone"));
}
