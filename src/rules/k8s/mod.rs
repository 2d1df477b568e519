//! Nodes of Kubernetes, whose kube-proxy keeps the table of IPVS.

pub(super) mod k8s001;

use crate::host::Link;

/// The device on which kube-proxy puts the addresses of services.
pub(super) fn holds_services(link: &Link) -> bool {
    link.name == "kube-ipvs0"
}
