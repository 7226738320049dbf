//! The tables.

mod breakers;
mod bytes;
mod connections;
mod health;
mod outliers;
mod priorities;
mod retries;
mod routes;
mod timeouts;
mod weights;

use super::case::Case;

/// Every case.
pub fn all() -> Vec<Case> {
    let tables = [
        priorities::cases(),
        weights::cases(),
        health::cases(),
        outliers::cases(),
        retries::cases(),
        timeouts::cases(),
        breakers::cases(),
        routes::cases(),
        connections::cases(),
        bytes::cases(),
    ];
    tables.into_iter().flatten().collect()
}
