//! One request of a case, and what came of it, as one line of text.

use std::net::SocketAddr;

use super::{
    topology::region,
    wire::{Message, Wire},
};

/// How a line names the endpoints that were tried.
#[derive(Clone, Copy, Debug, Default)]
pub enum Naming {
    /// By name: `a0>b0`.
    #[default]
    Hosts,
    /// By region, where either of its endpoints may be chosen: `a>b`.
    Regions,
    /// By order of appearance: `1>2>1`.
    Order,
    /// Not at all.
    None,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Ask {
    method: &'static str,
    path: &'static str,
    host: &'static str,
    headers: Vec<(String, String)>,
    body: &'static str,
    naming: Naming,
    shown: Vec<&'static str>,
    leaves: bool,
    logged: bool,
    judged: bool,
}

/// GET.
pub fn get(path: &'static str) -> Ask {
    ask("GET", path)
}

/// POST with a short body.
pub fn post(path: &'static str) -> Ask {
    Ask { body: "order", ..ask("POST", path) }
}

/// Any method, without a body.
pub fn ask(method: &'static str, path: &'static str) -> Ask {
    Ask {
        method,
        path,
        host: "oracle.example",
        headers: Vec::new(),
        body: "",
        naming: Naming::default(),
        shown: Vec::new(),
        leaves: false,
        logged: true,
        judged: false,
    }
}

impl Ask {
    /// What its tries meet; see [`super::origin`].
    pub fn script(self, script: &str) -> Self {
        self.header("x-script", script)
    }

    /// With a header; `{n}` in it is the number of the request in its step.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// To another authority.
    pub fn host(self, host: &'static str) -> Self {
        Self { host, ..self }
    }

    /// Its line names endpoints so.
    pub fn naming(self, naming: Naming) -> Self {
        Self { naming, ..self }
    }

    /// Its line also has this header of the answer, or its `body`.
    pub fn shows(mut self, what: &'static str) -> Self {
        self.shown.push(what);
        self
    }

    /// The caller goes away while an endpoint holds the request.
    pub fn leaves(self) -> Self {
        Self { leaves: true, ..self }.script("hold")
    }

    /// Its flags are not compared: refused before its id was read.
    pub fn unlogged(self) -> Self {
        Self { logged: false, ..self }
    }

    /// Its line also has what authorization decided, and by which permission.
    pub fn judged(self) -> Self {
        Self { judged: true, ..self }
    }

    /// Whether the decision is compared.
    pub fn is_judged(&self) -> bool {
        self.judged
    }

    /// Whether its flags are compared.
    pub fn is_logged(&self) -> bool {
        self.logged
    }

    /// Its line does not name endpoints: copies race with the request.
    pub fn unnamed(self) -> Self {
        Self { naming: Naming::None, ..self }
    }

    /// Whether the caller goes away.
    pub fn is_left(&self) -> bool {
        self.leaves
    }

    /// Sends it on its own connection; `None` when the connection ended without an answer.
    pub async fn send(&self, to: SocketAddr, id: &str) -> Option<Message> {
        let mut wire = Wire::connect(to).await.ok()?;
        self.exchange(&mut wire, Some(id), 0).await
    }

    /// Sends it on a kept connection.
    pub async fn exchange(&self, wire: &mut Wire, id: Option<&str>, number: u32) -> Option<Message> {
        wire.write(&self.encode(id, number)).await.ok()?;
        wire.response(self.method).await.ok()?
    }

    /// Its bytes.
    pub fn encode(&self, id: Option<&str>, number: u32) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\nhost: {}\r\n", self.method, self.path, self.host);
        if let Some(id) = id {
            text += &format!("x-request-id: {id}\r\n");
        }
        for (name, value) in &self.headers {
            text += &format!("{name}: {}\r\n", value.replace("{n}", &number.to_string()));
        }
        if !self.body.is_empty() {
            text += &format!("content-length: {}\r\n", self.body.len());
        }
        text += "\r\n";
        text += self.body;
        text.into_bytes()
    }

    /// `503 UF,URX a0>b0`: status, flags, endpoints that got it; `-` for none.
    pub fn line(&self, answer: Option<&Message>, flags: &str, tries: &[String]) -> String {
        let status = match answer {
            Some(message) if message.whole => message.status().map_or("?".to_owned(), |status| status.to_string()),
            Some(message) => format!("{}~", message.status().unwrap_or_default()),
            None => "gone".to_owned(),
        };
        let mut line = format!("{status} {flags}");
        if !matches!(self.naming, Naming::None) {
            line += &format!(" {}", self.tried(tries));
        }
        for what in &self.shown {
            let value = answer.map_or("-", |message| match *what {
                "body" => std::str::from_utf8(&message.body).unwrap_or("?").trim_end(),
                name => message.header(name).unwrap_or("-"),
            });
            line += &format!(" {what}={value}");
        }
        line
    }

    fn tried(&self, tries: &[String]) -> String {
        if tries.is_empty() {
            return "-".to_owned();
        }
        let mut known: Vec<&String> = Vec::new();
        let names = tries.iter().map(|name| {
            if !known.contains(&name) {
                known.push(name);
            }
            match self.naming {
                Naming::Hosts | Naming::None => name.clone(),
                Naming::Regions => region(name).to_owned(),
                Naming::Order => known.iter().position(|seen| *seen == name).map_or(0, |at| at + 1).to_string(),
            }
        });
        names.collect::<Vec<_>>().join(">")
    }
}
