//! A host of the lab: a network namespace, which lives as long as this handle, a thread in it or a socket of it.

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::JoinHandle;

/// A network namespace.
#[derive(Debug)]
pub struct Namespace(OwnedFd);

/// `/proc/self` is that of the thread group's leader, whose namespace is another one.
const OWN: &str = "/proc/thread-self/ns/net";

impl Namespace {
    /// A new one, with nothing but lo, which is down.
    ///
    /// # Errors
    /// When the kernel has no more, or the process no right to it.
    pub fn new() -> std::io::Result<Namespace> {
        std::thread::scope(|scope| {
            let made = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET)?;
                Self::current()
            });
            made.join().unwrap_or_else(|_| Err(std::io::Error::other("the thread that made a namespace panicked")))
        })
    }

    /// The one that the calling thread is in.
    ///
    /// # Errors
    /// Without /proc.
    pub fn current() -> std::io::Result<Namespace> {
        Ok(Namespace(File::open(OWN)?.into()))
    }

    /// Moves the calling thread there for good.
    ///
    /// # Errors
    /// Without the right to it.
    pub fn enter(&self) -> Result<(), Errno> {
        setns(&self.0, CloneFlags::CLONE_NEWNET)
    }

    /// Does something there, on a thread of its own, and waits for it. A panic of it goes on here.
    ///
    /// # Errors
    /// Without the right to enter.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Errno> {
        std::thread::scope(|scope| {
            let done = scope.spawn(|| {
                self.enter()?;
                Ok(work())
            });
            done.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Does something there, on a thread of its own.
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> std::io::Result<JoinHandle<Result<T, Errno>>> {
        let fd = self.0.try_clone()?;
        Ok(std::thread::spawn(move || {
            setns(&fd, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        }))
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
