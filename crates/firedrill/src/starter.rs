//! The first manifest: the example of two nginx servers, with the user's own names and addresses in it.

use std::net::SocketAddr;

use model::{
    Source,
    name::{RegionName, ServiceName},
};

use crate::failure::Failure;

const EXAMPLE: &str = include_str!("../../../examples/nginx/mesh.yaml");

/// Where a service runs in one region.
#[derive(Clone, Debug)]
pub struct Site {
    /// The region.
    pub region: RegionName,
    /// Where the service listens there.
    pub address: SocketAddr,
}

/// What stands in the first manifest.
#[derive(Clone, Debug)]
pub struct Starter {
    /// Name of the service.
    pub service: ServiceName,
    /// Serves.
    pub primary: Site,
    /// Stands by.
    pub standby: Site,
    /// Where the gateway listens.
    pub listen: SocketAddr,
}

impl Starter {
    /// The manifest; valid.
    ///
    /// # Errors
    /// When the names and addresses contradict each other, as one address for two sites.
    pub fn text(&self) -> Result<String, Failure> {
        let text = words(&self.with_addresses(), |word| match word {
            "web" => Some(self.service.to_string()),
            "east" => Some(self.primary.region.to_string()),
            "west" => Some(self.standby.region.to_string()),
            "East" => Some(capital(self.primary.region.as_str())),
            _ => None,
        });
        let source = Source { path: "mesh.yaml".to_owned(), text };
        match model::parse(std::slice::from_ref(&source)) {
            Ok(_) => Ok(source.text),
            Err(problems) => {
                let said: Vec<_> = problems.iter().map(|problem| problem.message.as_str()).collect();
                Err(Failure::usage(format!("these make no valid manifest: {}", said.join("; ")))
                    .help("give every site its own region and address, and the gateway an address of its own"))
            }
        }
    }

    /// Name of the drill in it.
    pub fn drill(&self) -> String {
        format!("lose-{}", self.primary.region)
    }

    /// Each address of the example is written once for use and perhaps again in comments.
    fn with_addresses(&self) -> String {
        let mut out = String::with_capacity(EXAMPLE.len() + 64);
        let mut rest = EXAMPLE;
        // One pass, so that an address of the user that equals another of the example is not replaced again.
        while let Some(at) = rest.find("127.0.0.1:808") {
            let (before, after) = rest.split_at(at);
            let Some((example, after)) = after.split_at_checked("127.0.0.1:8080".len()) else { break };
            out.push_str(before);
            let address = match example.as_bytes().last() {
                Some(b'1') => self.primary.address,
                Some(b'2') => self.standby.address,
                _ => self.listen,
            };
            // An IPv6 address begins with a bracket, which YAML takes for a list unless it is quoted.
            let bare = before.ends_with("listen: ") && address.is_ipv6();
            out.push_str(&if bare { format!("\"{address}\"") } else { address.to_string() });
            rest = after;
        }
        out.push_str(rest);
        out
    }
}

/// Replaces whole words (letters, digits, `_`).
fn words(text: &str, replace: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut word = String::new();
    let finish = |word: &mut String, out: &mut String| {
        out.push_str(&replace(word).unwrap_or_else(|| word.clone()));
        word.clear();
    };
    for c in text.chars() {
        if c.is_ascii_alphanumeric() || c == '_' {
            word.push(c);
        } else {
            finish(&mut word, &mut out);
            out.push(c);
        }
    }
    finish(&mut word, &mut out);
    out
}

fn capital(name: &str) -> String {
    let mut chars = name.chars();
    chars.next().map(|first| first.to_uppercase().collect::<String>() + chars.as_str()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use model::config::Place;

    use super::*;

    fn starter(service: &str, primary: (&str, &str), standby: (&str, &str), listen: &str) -> Starter {
        let site = |(region, address): (&str, &str)| Site {
            region: RegionName::new(region).unwrap(),
            address: address.parse().unwrap(),
        };
        Starter {
            service: ServiceName::new(service).unwrap(),
            primary: site(primary),
            standby: site(standby),
            listen: listen.parse().unwrap(),
        }
    }

    fn default() -> Starter {
        starter("web", ("east", "127.0.0.1:8081"), ("west", "127.0.0.1:8082"), "127.0.0.1:8080")
    }

    #[test]
    fn the_defaults_are_the_example() {
        assert_eq!(default().text().unwrap(), EXAMPLE);
    }

    #[test]
    fn own_names_and_addresses_are_in_it() {
        for (service, primary, standby, listen) in [
            ("shop", ("a", "10.0.1.5:80"), ("b", "10.0.2.5:80"), "127.0.0.1:9000"),
            ("web", ("west", "127.0.0.1:8082"), ("east", "127.0.0.1:8081"), "127.0.0.1:8090"),
            ("x", ("eu-1", "[::1]:81"), ("eu-2", "[::1]:82"), "[::1]:8080"),
        ] {
            let starter = starter(service, primary, standby, listen);
            let text = starter.text().unwrap();
            let config = model::parse(&[Source { path: "m".to_owned(), text }]).unwrap().config;
            let service = config.services.values().next().unwrap();
            let places: Vec<_> = service.endpoints.iter().map(|e| (e.region.as_str(), e.place.clone())).collect();
            let site = |(region, address): (&'static str, &str)| (region, Place::Address(address.parse().unwrap()));
            assert_eq!(service.name, starter.service);
            assert_eq!(places, [site(primary), site(standby)]);
            assert_eq!(config.mesh.gateways[0].listen, starter.listen);
            assert_eq!(config.drills.values().next().unwrap().name.as_str(), starter.drill());
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let same = starter("web", ("east", "127.0.0.1:1"), ("east", "127.0.0.1:2"), "127.0.0.1:8080");
        assert!(same.text().is_err());
    }
}
