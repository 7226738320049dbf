//! How connections end, and what is said of it.

use xds::snapshot::UpstreamProtocol;

use crate::oracle::{
    ask::{get, post},
    case::Case,
};

const BREAKS: &str = "A connection that ends inside a body is told as UC";

pub fn cases() -> Vec<Case> {
    let http2 = |name| Case::new(name, "a0").cluster(|cluster| cluster.protocol = UpstreamProtocol::Http2);
    vec![
        Case::new("nobody listens", "a0?").ask(get("/"), "503 UF -").ask(post("/"), "503 UF -"),
        Case::new("the endpoint ends the connection", "a0")
            .ask(get("/").script("close"), "503 UC a0")
            .ask(get("/").script("reset"), "503 UC a0")
            .ask(post("/").script("reset"), "503 UC a0"),
        Case::new("the answer breaks off", "a0").ask_differs(
            get("/").script("cut"),
            "200~ UPE a0",
            "200~ UC a0",
            BREAKS,
        ),
        Case::new("the answer is not HTTP", "a0").ask(get("/").script("garbage"), "502 UPE a0"),
        http2("streams that are reset")
            .ask(get("/").script("reset"), "503 UR a0")
            .ask(get("/").script("refuse"), "503 UR a0"),
        Case::new("the caller goes away", "a0").ask(get("/").leaves(), "gone DC a0"),
        http2("over HTTP/2 upstream")
            .ask(get("/"), "200 - a0")
            .ask(get("/").script("404"), "404 - a0")
            .ask(post("/"), "200 - a0"),
        Case::new("more headers than allowed", "a0")
            .listener(|http| http.limits.headers = 20)
            .ask((0..10).fold(get("/"), |ask, n| ask.header(&format!("x-{n}"), "1")), "200 - a0")
            .ask((0..20).fold(get("/"), |ask, n| ask.header(&format!("x-{n}"), "1")).unlogged(), "431 ? -"),
    ]
}
