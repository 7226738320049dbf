//! Hostile peers: callers and endpoints that break the protocols, by corpus.

mod corpus;
mod desync;
mod edge;
mod floods;
mod frames;
mod http2;
mod limits;
mod recorder;
mod requests;
mod responses;
mod wire;
