# A machine with a data disk; a snapshot of that disk, a copy and an image of the snapshot; a second machine that boots
# from a disk which exists, with another disk attached.
# `gstack client terraform` writes provider.tf and the token beside it.
variable "zone" { default = "ch-gv2" }
variable "machine_type" { default = "e2-small" }
variable "data_gb" { default = 20 }
variable "label" { default = "web" }

resource "google_compute_disk" "data" {
  name   = "data"
  zone   = var.zone
  type   = "pd-ssd"
  size   = var.data_gb
  labels = { of = var.label }
}

resource "google_compute_instance" "web" {
  name                      = "web"
  zone                      = var.zone
  machine_type              = var.machine_type
  allow_stopping_for_update = true

  boot_disk {
    initialize_params {
      image  = "debian-cloud/debian-12"
      size   = 20
      labels = { of = "web" }
    }
  }

  attached_disk {
    source      = google_compute_disk.data.id
    device_name = "data"
  }

  network_interface {
    network = "default"
    access_config {}
  }
}

resource "google_compute_disk" "more" {
  name = "more"
  zone = var.zone
  size = 10
}

resource "google_compute_attached_disk" "more" {
  disk     = google_compute_disk.more.id
  instance = google_compute_instance.from_disk.id
}

resource "google_compute_snapshot" "data" {
  name        = "data-1"
  zone        = var.zone
  source_disk = google_compute_disk.data.name
  labels      = { of = "web" }
  depends_on  = [google_compute_instance.web]
}

resource "google_compute_disk" "copy" {
  name     = "copy"
  zone     = var.zone
  snapshot = google_compute_snapshot.data.self_link
}

resource "google_compute_image" "data" {
  name            = "data-1"
  family          = "data"
  source_snapshot = google_compute_snapshot.data.self_link
}

resource "google_compute_disk" "boot" {
  name  = "boot"
  zone  = var.zone
  image = "debian-cloud/debian-12"
  size  = 20
}

resource "google_compute_instance" "from_disk" {
  name         = "from-disk"
  zone         = var.zone
  machine_type = "e2-small"

  boot_disk { source = google_compute_disk.boot.self_link }

  network_interface { network = "default" }

  # Disks by google_compute_attached_disk are not the instance's own for Terraform.
  lifecycle { ignore_changes = [attached_disk] }
}
