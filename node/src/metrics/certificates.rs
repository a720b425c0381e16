//! How long the certificates that the node uses are still good.

use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

type Label = Vec<(&'static str, &'static str)>;

/// The series, which is read off the clock when it is asked for.
#[derive(Debug)]
pub(super) struct Certificates {
    expiring: Mutex<Vec<(&'static str, SystemTime)>>,
    seconds: Family<Label, Gauge<f64, AtomicU64>>,
}

impl Certificates {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let seconds = Family::default();
        let help = "Until a certificate that the node uses expires; negative once it has";
        registry.register("certificate_expiry_seconds", help, seconds.clone());
        Self { expiring: Mutex::default(), seconds }
    }

    pub(super) fn set(&self, expiring: Vec<(&'static str, SystemTime)>) {
        *self.expiring.lock().unwrap_or_else(PoisonError::into_inner) = expiring;
    }

    pub(super) fn show(&self, now: SystemTime) {
        let expiring = self.expiring.lock().unwrap_or_else(PoisonError::into_inner);
        self.seconds.clear();
        for (name, at) in expiring.iter() {
            let left = match at.duration_since(now) {
                Ok(left) => left.as_secs_f64().round(),
                Err(over) => -over.duration().as_secs_f64().round(),
            };
            self.seconds.get_or_create_owned(&vec![("certificate", *name)]).set(left);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn the_time_that_is_left_follows_the_clock() {
        let certificates = Certificates::new(&mut Registry::default());
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        certificates.set(vec![("node", at(100))]);
        let left = || certificates.seconds.get_or_create(&vec![("certificate", "node")]).get();
        for (now, expected) in [(40, 60.0), (100, 0.0), (130, -30.0)] {
            certificates.show(at(now));
            assert!((left() - expected).abs() < 0.5, "{now}");
        }
    }
}
