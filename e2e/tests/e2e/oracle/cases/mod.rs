//! The tables.

mod authorization;
mod breakers;
mod bytes;
mod connections;
mod detectors;
mod faults;
mod hashing;
mod health;
mod outliers;
mod priorities;
mod retries;
mod routes;
mod routing;
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
        routing::cases(),
        hashing::cases(),
        detectors::cases(),
        faults::cases(),
        connections::cases(),
        bytes::cases(),
        authorization::cases(),
    ];
    tables.into_iter().flatten().collect()
}
