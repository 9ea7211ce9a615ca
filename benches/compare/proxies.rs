//! The four proxies, each with one thread and told to do the same.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use super::kit::broker::{self, Setup};
use super::kit::process::{Process, free_port, program};

/// Those that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Proxy {
    /// This project.
    Broker,
    /// Debian's package `haproxy`.
    Haproxy,
    /// Debian's package `nginx-light`.
    Nginx,
    /// Debian's package `caddy`.
    Caddy,
    /// The least that the broker's HTTP library takes, without TLS alone.
    Bare,
}

impl Proxy {
    /// All of them.
    pub(crate) const ALL: [Self; 5] =
        [Self::Broker, Self::Haproxy, Self::Nginx, Self::Caddy, Self::Bare];

    /// As it is written.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::Haproxy => "HAProxy",
            Self::Nginx => "nginx",
            Self::Caddy => "Caddy",
            Self::Bare => "bare hyper",
        }
    }

    /// The program; what to install where there is none.
    fn program(self) -> Result<PathBuf, String> {
        let (name, package) = match self {
            Self::Broker => return broker::program().map_err(|error| error.to_string()),
            Self::Haproxy => ("haproxy", "haproxy"),
            Self::Nginx => ("nginx", "nginx-light"),
            Self::Caddy => ("caddy", "caddy"),
            Self::Bare => return std::env::current_exe().map_err(|error| error.to_string()),
        };
        program(name).ok_or_else(|| format!("{name} (Debian's package {package})"))
    }

    /// Whether it speaks TLS.
    pub(crate) fn speaks_tls(self) -> bool {
        self != Self::Bare
    }

    /// Its version, as it says itself.
    pub(crate) fn version(self) -> String {
        let Ok(program) = self.program() else { return String::new() };
        let argument = match self {
            Self::Broker => "--version",
            Self::Haproxy | Self::Nginx => "-v",
            Self::Caddy => "version",
            Self::Bare => return String::new(),
        };
        let Ok(said) = Command::new(program).arg(argument).output() else { return String::new() };
        let said = [said.stdout, said.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let number = |word: &&str| word.chars().any(|c| c.is_ascii_digit()) && word.contains('.');
        said.split([' ', '/', '\n']).find(number).unwrap_or_default().to_owned()
    }
}

/// What is missing on this machine.
pub(crate) fn missing(proxies: &[Proxy]) -> Vec<String> {
    proxies.iter().filter_map(|proxy| proxy.program().err()).collect()
}

/// A proxy that runs.
pub(crate) struct Instance {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// The process.
    pub(crate) process: Process,
    /// The broker's own figures.
    pub(crate) admin: Option<SocketAddr>,
}

/// Starts a proxy in front of `backend`; its files go to `folder`, in which `cert.pem`, `key.pem` and
/// `both.pem` are.
pub(crate) fn start(
    proxy: Proxy,
    tls: bool,
    backend: SocketAddr,
    folder: &Path,
) -> io::Result<Instance> {
    let home = folder.join(format!("{}-{tls}-{}", proxy.name(), free_port()));
    fs::create_dir(&home)?;
    let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let (address, admin) = (loopback(free_port()), loopback(free_port()));
    let mut command = Command::new(proxy.program().map_err(io::Error::other)?);
    let file = home.join("settings");
    match proxy {
        Proxy::Broker => {
            let tls = tls.then_some(folder);
            let settings = Setup { address, admin, tls, gitea: backend }.write(&home)?;
            command.arg("serve").arg("--config").arg(settings);
        }
        Proxy::Haproxy => {
            fs::write(&file, haproxy(address, tls, backend, folder))?;
            command.arg("-db").arg("-f").arg(&file);
        }
        Proxy::Nginx => {
            fs::write(&file, nginx(address, tls, backend, folder, &home))?;
            command.arg("-c").arg(&file).arg("-p").arg(&home);
        }
        Proxy::Caddy => {
            fs::write(&file, caddy(address, tls, backend, folder))?;
            command.args(["run", "--adapter", "caddyfile", "--config"]).arg(&file);
            command.env("GOMAXPROCS", "1").env("HOME", &home);
        }
        Proxy::Bare => {
            command.args(["--bare", &address.to_string(), &backend.to_string()]);
        }
    }
    let mut process = Process::start(proxy.name(), &mut command, &home.join("log"))?;
    process.listens(address)?;
    let admin = (proxy == Proxy::Broker).then_some(admin);
    Ok(Instance { address, process, admin })
}

fn haproxy(address: SocketAddr, tls: bool, backend: SocketAddr, folder: &Path) -> String {
    let tls = match tls {
        true => format!(" ssl crt {}/both.pem alpn http/1.1", folder.display()),
        false => String::new(),
    };
    format!(
        "global\n nbthread 1\n maxconn 4096\n\
         defaults\n mode http\n timeout connect 5s\n timeout client 300s\n timeout server 300s\n \
         http-reuse always\n\
         frontend runners\n bind {address}{tls}\n default_backend gitea\n\
         backend gitea\n server gitea {backend}\n"
    )
}

/// Without the files in which it would keep large bodies on their way.
fn nginx(
    address: SocketAddr,
    tls: bool,
    backend: SocketAddr,
    folder: &Path,
    home: &Path,
) -> String {
    let (folder, home) = (folder.display(), home.display());
    let (tls, certificate) = match tls {
        true => (
            " ssl",
            format!("ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;"),
        ),
        false => ("", String::new()),
    };
    let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|path| format!("{path}_temp_path {home}/{path};\n"))
        .concat();
    format!(
        "daemon off;\nworker_processes 1;\nworker_rlimit_nofile 16384;\npid {home}/pid;\nerror_log stderr;\n\
         events {{ worker_connections 8192; }}\n\
         http {{\naccess_log off;\n{paths}\
         upstream gitea {{ server {backend}; keepalive 128; keepalive_requests 100000000; }}\n\
         server {{\nlisten {address}{tls} backlog=1024;\n{certificate}\n\
         keepalive_requests 100000000;\nkeepalive_timeout 300s;\nclient_max_body_size 0;\n\
         location / {{\nproxy_pass http://gitea;\nproxy_http_version 1.1;\n\
         proxy_set_header Connection \"\";\nproxy_request_buffering off;\nproxy_max_temp_file_size 0;\n\
         }}\n}}\n}}\n"
    )
}

/// It answers for every host: of one that it does not know, it says "200" and passes nothing on.
fn caddy(address: SocketAddr, tls: bool, backend: SocketAddr, folder: &Path) -> String {
    let (scheme, tls) = match tls {
        true => {
            let folder = folder.display();
            ("https", format!("tls {folder}/cert.pem {folder}/key.pem\n"))
        }
        false => ("http", String::new()),
    };
    format!(
        "{{\nadmin off\nauto_https disable_redirects\n}}\n\
         {scheme}://:{} {{\nbind {}\n{tls}reverse_proxy {backend} {{\n\
         transport http {{\nkeepalive_idle_conns_per_host 128\n}}\n}}\n}}\n",
        address.port(),
        address.ip()
    )
}
