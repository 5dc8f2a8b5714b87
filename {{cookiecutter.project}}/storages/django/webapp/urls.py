"""The admin, and the way to the states in it."""

from django.contrib import admin
from django.urls import path
from django.views.generic import RedirectView

from config.settings import mail_domain

admin.site.site_header = admin.site.site_title = f"Mail of {mail_domain}"
admin.site.site_url = None
admin.site.enable_nav_sidebar = False

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:mail_states_state_changelist")),
    path("admin/", admin.site.urls),
]
