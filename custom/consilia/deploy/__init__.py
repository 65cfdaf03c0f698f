"""What administers NVFlare: install a kit, examine it, approve what a site sends, submit, follow and resume jobs."""
