//! The caller's way to connect, in the form that tonic takes.

use std::{
    future::Future,
    io,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::codegen::{Service, http::Uri};

/// Calls the caller's function, whatever the address: it knows where the control plane is.
pub(crate) struct Connector<C, IO> {
    connect: Arc<C>,
    connection: PhantomData<fn() -> IO>,
}

impl<C, IO> Connector<C, IO> {
    pub fn new(connect: Arc<C>) -> Self {
        Self { connect, connection: PhantomData }
    }
}

impl<C, F, IO> Service<Uri> for Connector<C, IO>
where
    C: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = io::Result<IO>> + Send + 'static,
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Response = TokioIo<IO>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<IO>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let connecting = (self.connect)();
        Box::pin(async move { connecting.await.map(TokioIo::new) })
    }
}
