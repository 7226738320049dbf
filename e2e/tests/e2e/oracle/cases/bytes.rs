//! Listeners that forward bytes.

use crate::oracle::{ask::get, case::Case};

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("bytes go to the endpoint and back", "a0")
            .bytes()
            .ask(get("/").unlogged(), "200 ? a0")
            .ask(get("/").script("cut").unlogged(), "200~ ? a0"),
        Case::new("bytes to an endpoint that ends the connection", "a0")
            .bytes()
            .ask(get("/").script("close").unlogged(), "gone ? a0")
            .ask(get("/").script("reset").unlogged(), "gone ? a0"),
        Case::new("bytes to nobody", "a0?").bytes().ask(get("/").unlogged(), "gone ? -"),
        Case::new("bytes go to the next tier", "a0? | b0")
            .bytes()
            .checked()
            .cluster(|cluster| cluster.health_check.as_mut().unwrap().http_path = None)
            .ask(get("/").unlogged(), "200 ? b0"),
    ]
}
